"""A Keycloak as a site runs it beside a deployment: its distribution from Maven Central, and a realm for the site.

What is registered is what docs/operator.md says.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from ansible_collections.skasrc.cavern.plugins.module_utils import _x509

VERSION = "26.5.6"
URL = f"https://repo1.maven.org/maven2/org/keycloak/keycloak-quarkus-dist/{VERSION}/keycloak-quarkus-dist-{VERSION}.zip"
SHA256 = "490189d9dff05272432d51f71a069462eeca97f2920a694d539a1e6c26a5a347"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skasrc-cavern"
PATIENCE = 300
"""Seconds for which a start is waited for: the first one assembles the server."""
REALM = "site"
CLIENTS = ("cavern", "prepare-data", "prepare-data-page")


def distribution() -> Path:
    """Return the archive, which is fetched where it is not there, and verified."""
    archive = CACHE / f"keycloak-{SHA256[:16]}.zip"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.NamedTemporaryFile(dir=CACHE) as partial,
            requests.get(URL, stream=True, timeout=60) as answer,
        ):
            answer.raise_for_status()
            for chunk in answer.iter_content(1 << 20):
                partial.write(chunk)
            partial.flush()
            _verify(Path(partial.name))
            os.link(partial.name, archive)
    _verify(archive)
    return archive


def _verify(archive: Path) -> None:
    with archive.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    assert found == SHA256, f"{archive} is not Keycloak {VERSION}: its SHA-256 is {found}"


@dataclass
class Keycloak:
    """A running Keycloak and its administrator."""

    home: Path
    address: str
    port: int
    ca: str
    """Path of the authority of its certificate."""
    password: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Base URL, without a trailing slash."""
        return f"https://{self.address}:{self.port}"

    @property
    def issuer(self) -> str:
        """The issuer, as tokens spell it."""
        return f"{self.url}/realms/{REALM}"

    def start(self) -> None:
        """Start it, and wait until it serves."""
        command = [str(self.home / "bin/kc.sh"), "start", "--cache=local", "--db=dev-file"]
        command += [f"--hostname={self.url}", f"--http-host={self.address}", f"--https-port={self.port}"]
        command += [f"--https-certificate-file={self.home}/server.pem"]
        command += [f"--https-certificate-key-file={self.home}/server.key"]
        environment = os.environ | {
            "KC_BOOTSTRAP_ADMIN_USERNAME": "admin",
            "KC_BOOTSTRAP_ADMIN_PASSWORD": self.password,
            "JAVA_OPTS_KC_HEAP": "-Xms64m -Xmx768m",
        }
        log = self.home / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                if self._get(f"{self.url}/realms/master").ok:
                    return
            except requests.ConnectionError:
                pass
            ended = self._process.poll() is not None or time.monotonic() > deadline
            assert not ended, log.read_text()[-5000:]
            time.sleep(0.5)

    def stop(self) -> None:
        """Stop it; what it holds stays."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None

    def _get(self, url: str) -> requests.Response:
        return requests.get(url, verify=self.ca, timeout=10)

    def grant(self, client: str, secret: str = "", realm: str = REALM, **form: str) -> requests.Response:
        """Ask the token endpoint as *client*, with its *secret* if it has one."""
        form = {"client_id": client, **({"client_secret": secret} if secret else {}), **form}
        endpoint = f"{self.url}/realms/{realm}/protocol/openid-connect/token"
        return requests.post(endpoint, data=form, verify=self.ca, timeout=60)

    def administer(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the administrator's API, below /admin/realms; returns the answer, or the id of what was created."""
        form = {"grant_type": "password", "username": "admin", "password": self.password}
        token = self.grant("admin-cli", realm="master", **form).json()["access_token"]
        answer = requests.request(
            method,
            f"{self.url}/admin/realms{path}",
            json=body,
            headers={"Authorization": f"Bearer {token}"},
            verify=self.ca,
            timeout=60,
        )
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        if answer.status_code == 201:
            return answer.headers["Location"].rpartition("/")[2]
        return answer.json() if answer.content else None

    def user(self, name: str, password: str, *groups: str) -> None:
        """Create a user, who is a member of *groups*."""
        self.administer(
            "POST",
            f"/{REALM}/users",
            {
                "username": name,
                "enabled": True,
                "email": f"{name}@site.example",
                "emailVerified": True,
                "firstName": name,
                "lastName": "of the site",
                "credentials": [{"type": "password", "value": password}],
                "groups": [f"/{group}" for group in groups],
            },
        )

    def client(self, name: str, secret: str = "", **more: Any) -> str:
        """Register a client, confidential if it has a secret; returns its internal id."""
        attributes = more.pop("attributes", {})
        kind = {"secret": secret} if secret else {"publicClient": True}
        body = {"clientId": name, "standardFlowEnabled": False, **kind, "attributes": attributes, **more}
        return str(self.administer("POST", f"/{REALM}/clients", body))

    def create_realm(self, audience: str, groups: list[str]) -> None:
        """Create the realm, and the scope of every client that tells services what they want to know."""
        self.administer("POST", "", {"realm": REALM, "enabled": True})
        for group in groups:
            self.administer("POST", f"/{REALM}/groups", {"name": group})
        tokens = {"access.token.claim": "true", "id.token.claim": "false"}
        mappers = {
            "audience": ("oidc-audience-mapper", {"included.custom.audience": audience}),
            "exchange": ("oidc-audience-mapper", {"included.custom.audience": "prepare-data"}),
            "groups": ("oidc-group-membership-mapper", {"claim.name": "groups", "full.path": "true"}),
        }
        scope = {
            "name": "groups",
            "protocol": "openid-connect",
            "attributes": {"include.in.token.scope": "true"},
            "protocolMappers": [
                {
                    "name": name,
                    "protocol": "openid-connect",
                    "protocolMapper": kind,
                    "config": {**tokens, **config},
                }
                for name, (kind, config) in mappers.items()
            ],
        }
        found = self.administer("POST", f"/{REALM}/client-scopes", scope)
        self.administer("PUT", f"/{REALM}/default-default-client-scopes/{found}")

    def register(self, url: str, groups: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
        """Create the realm and the clients of the deployment at *url*, and one for tests, ``site-cli``.

        Return the settings with which it is deployed, and Keycloak's own ids of the clients by their names.
        """
        words = {client: secrets.token_urlsafe(24) for client in CLIENTS}
        settings = {
            "deployment_issuer": self.issuer,
            "deployment_service_overrides": {"iam": {"enabled": False}},
            "certificates_authorities": [self.ca],
            "secrets_overrides": {
                "iam_client_cavern": words["cavern"],
                "iam_client_prepare_data": words["prepare-data"],
            },
            "core_page_client_id": "prepare-data-page",
            "core_page_client_secret": words["prepare-data-page"],
            "deployment_prune": True,
        }
        self.create_realm(url, groups)
        kinds: dict[str, dict[str, Any]] = {
            "cavern": {"serviceAccountsEnabled": True},
            "prepare-data": {
                "serviceAccountsEnabled": True,
                "attributes": {
                    "standard.token.exchange.enabled": "true",
                    "access.token.lifespan": "604800",
                },
            },
            "prepare-data-page": {
                "standardFlowEnabled": True,
                "redirectUris": [f"{url}/prepare-data/ui/signed-in"],
                "attributes": {"pkce.code.challenge.method": "S256"},
            },
        }
        ids = {name: self.client(name, words[name], **kind) for name, kind in kinds.items()}
        # For the tests alone, where users would use a browser.
        ids["site-cli"] = self.tests_client("site-cli", 300)
        return settings, ids

    def tests_client(self, name: str, lifetime: int) -> str:
        """Register a client whose tokens, for a user's password, live *lifetime* seconds; returns its internal id."""
        attributes = {"access.token.lifespan": str(lifetime)}
        return self.client(name, directAccessGrantsEnabled=True, attributes=attributes)

    def token(self, user: str, password: str, client: str = "site-cli") -> str:
        """Return an access token of a user, as *client* gets one."""
        answer = self.grant(client, grant_type="password", username=user, password=password)
        assert answer.ok, answer.text
        return str(answer.json()["access_token"])


@contextmanager
def keycloak(address: str, port: int) -> Iterator[Keycloak]:
    """Run Keycloak at an address of this machine, with a certificate of an authority of its own."""
    assert shutil.which("java"), "Keycloak needs Java 17: bin/system-packages installs it"
    with tempfile.TemporaryDirectory(prefix="keycloak-") as directory:
        # With the modes of its programs, which Python's zipfile leaves out.
        subprocess.run(["unzip", "-q", str(distribution()), "-d", directory], check=True)
        home = Path(directory) / f"keycloak-{VERSION}"
        ca = _x509.create_ca("Site", 30, "ec")
        server = _x509.issue_server(ca, _x509.Names("keycloak.example", (), (address,)), 30, "ec")
        files = {"ca.pem": ca.certificate_pem, "server.pem": server.certificate_pem}
        for name, content in files.items():
            (home / name).write_bytes(content)
        (home / "server.key").touch(0o600)
        (home / "server.key").write_bytes(server.key_pem)
        running = Keycloak(home, address, port, str(home / "ca.pem"))
        try:
            running.start()
            yield running
        finally:
            running.stop()
