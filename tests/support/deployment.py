"""The deployed stack under test: URLs, CA, users' tokens and containers."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import docker
import requests
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = [
    entry["role"].rpartition(".")[2]
    for entry in yaml.safe_load((ROOT / "roles/services/meta/main.yml").read_text(encoding="utf-8"))[
        "dependencies"
    ]
]
"""Roles of the services that every deployment has; what `extra_services` adds is not among them."""
STATED: dict[str, dict[str, Any]] = {
    key: entry
    for role in ROLES
    for key, entry in yaml.safe_load((ROOT / "roles" / role / "vars/main.yml").read_text(encoding="utf-8"))
    .get(f"{role}_services", {})
    .items()
}
CATALOGUE = dict(sorted(STATED.items(), key=lambda item: int(item[1]["number"])))
"""Catalogue entries of the services' roles, by key."""

INVENTORY = os.environ.get("CAVERN_TEST_INVENTORY", "tests/inventory")
"""Inventory of the deployment under test, relative to the checkout: by default the tests' own."""


def playbook(
    *arguments: str, inventory: str = INVENTORY, check: bool = True, callback: str = "ansible.builtin.default"
) -> subprocess.CompletedProcess[str]:
    """Run ``ansible-playbook`` in the checkout and return what it printed."""
    environment = os.environ | {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_STDOUT_CALLBACK": callback,
    }
    done = subprocess.run(
        [str(ROOT / ".venv/bin/ansible-playbook"), "-i", inventory, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if check and done.returncode:
        raise AssertionError(
            f"ansible-playbook {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        )
    return done


@cache
def settings(inventory: str = INVENTORY) -> dict[str, Any]:
    """Return the settings of an inventory that the tests need, with defaults and templates resolved."""
    printed = playbook(
        str(ROOT / "tests/support/settings.yml"), inventory=inventory, callback="skasrc.cavern.messages"
    ).stdout
    found: dict[str, Any] = json.loads(printed)
    return found


@dataclass
class Deployment:
    """One deployment on this machine, found by its inventory's settings."""

    project: str
    public_name: str
    url: str
    """Public base URL, without a trailing slash."""
    authority: str
    """Authority of the services' resource ids: ``ivo://<authority>/cavern``."""
    state: Path
    data: Path
    logs: Path
    prefix: str
    """Prefix of the names of containers and volumes."""
    image_prefix: str
    network: dict[str, str]
    """Name, subnet and bridge of the Docker network."""
    services: dict[str, dict[str, Any]]
    """The resolved catalogue."""
    _tokens: dict[tuple[str, tuple[tuple[str, Any], ...]], str] = field(default_factory=dict)

    @classmethod
    def of(cls, inventory: str = INVENTORY) -> Deployment:
        """Return the deployment that an inventory describes."""
        found = settings(inventory)
        return cls(**{**found, **{name: Path(found[name]) for name in ("state", "data", "logs")}})

    @property
    def ca(self) -> str:
        """Path of the deployment's CA certificate."""
        return str(self.state / "certs/ca.pem")

    @cached_property
    def secrets(self) -> dict[str, str]:
        """The deployment's generated secrets by name."""
        loaded: dict[str, str] = yaml.safe_load((self.state / "secrets.yml").read_text())
        return loaded

    @cached_property
    def engine(self) -> Any:
        """Client of the Docker Engine."""
        return docker.from_env()

    def image(self, name: str) -> str:
        """Name of one of its images, such as ``base``, as the engine knows it."""
        return f"{self.image_prefix}/{name}:local"

    def container(self, name: str) -> Any:
        """Container by the plain name of its service."""
        return self.engine.containers.get(self.prefix + name)

    def sql(self, service: str, database: str, statement: str) -> str:
        """Run a statement as the database's superuser."""
        done = self.container(service).exec_run(["psql", "-qXAtd", database, "-c", statement])
        assert done.exit_code == 0, done.output
        return str(done.output.decode().strip())

    def address(self, name: str) -> str:
        """Address of a service's container on the Docker network, by its plain name."""
        networks = self.container(name).attrs["NetworkSettings"]["Networks"]
        return str(next(iter(networks.values()))["IPAddress"])

    def memory(self, name: str) -> int:
        """Return a container's memory in bytes, without the page cache."""
        told = self.container(name).stats(stream=False)["memory_stats"]
        cache = told["stats"].get("total_inactive_file", told["stats"].get("inactive_file", 0))
        return int(told["usage"]) - int(cache)

    def containers(self) -> dict[str, Any]:
        """All containers of the deployment by the plain name of each one's service."""
        label = {"label": f"int.skao.src.cavern.project={self.project}"}
        listed = self.engine.containers.list(all=True, filters=label)
        return {found.name.removeprefix(self.prefix): found for found in listed}

    def receipt(self, task: str) -> Path:
        """Return the receipt of a finished task, which appears a moment later."""
        path = self.logs / f"celery_results/{task}.json"
        deadline = time.monotonic() + 60
        while not path.exists():
            assert time.monotonic() < deadline, path
            time.sleep(0.1)
        return path

    @contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """Pause a service: its connections stay open, but it does not respond."""
        container = self.container(name)
        container.pause()
        try:
            yield
        finally:
            container.unpause()

    def token(self, user: str, **parameters: Any) -> str:
        """Access token of *user*, with further form *parameters* such as ``expires_in`` in seconds."""
        key = (user, tuple(sorted(parameters.items())))
        if key not in self._tokens:
            answer = requests.post(
                f"{self.url}/iam/token",
                data={
                    "grant_type": "password",
                    "username": user,
                    "password": self.secrets["iam_user_password"],
                    **parameters,
                },
                auth=("cavern-cli", self.secrets["iam_client_cavern_cli"]),
                verify=self.ca,
                timeout=30,
            )
            answer.raise_for_status()
            self._tokens[key] = answer.json()["access_token"]
        return self._tokens[key]

    def forget(self) -> None:
        """Reload secrets and discard tokens after a rotation."""
        self.__dict__.pop("secrets", None)
        self._tokens.clear()

    def session(self, user: str | None = None) -> requests.Session:
        """HTTP session that trusts the deployment's CA and, with *user*, sends that user's token."""
        session = requests.Session()
        session.trust_env = False
        session.verify = self.ca
        if user is not None:
            session.headers["Authorization"] = f"Bearer {self.token(user)}"
        return session
