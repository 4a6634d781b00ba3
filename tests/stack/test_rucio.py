"""Datasets in the deployed stack: Rucio and XRootD beside it, asked with tokens of the deployment's issuer."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from deployment import Deployment, playbook
from prepare_data_client.did import DID
from rucio_server import Rucio, described
from tasks import ended, submit

# Rucio's image is built before the first of them.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
XROOTD = "https://rse-xrootd:1094"


@dataclass
class Site:
    """The deployment, its Rucio, and how it is deployed."""

    stack: Deployment
    rucio: Rucio
    user: str
    inventory: list[str]
    settings: dict[str, Any]

    def deploy(self, *arguments: str, **more: Any) -> str:
        """Deploy; returns what the playbook prints."""
        settings = json.dumps(self.settings | more)
        return playbook("site.yml", *self.inventory, "-e", settings, *arguments).stdout

    def tokens(self) -> set[str]:
        """Accounts by whose tokens of the issuer Rucio was asked."""
        statement = "SELECT DISTINCT account FROM rucio.tokens WHERE oidc_scope IS NOT NULL"
        return set(self.stack.sql("rucio_db", "rucio", statement).split())

    def exchanged(self) -> str:
        """A token for Rucio in exchange for the user's."""
        form = {"grant_type": EXCHANGE, "subject_token": self.stack.token(self.user), "audience": "rucio"}
        form |= {"subject_token_type": "urn:ietf:params:oauth:token-type:access_token"}
        answer = requests.post(
            f"{self.stack.url}/iam/token",
            data=form | {"scope": "openid profile"},
            auth=("prepare-data", self.stack.secrets["iam_client_prepare_data"]),
            verify=self.stack.ca,
            timeout=30,
        )
        answer.raise_for_status()
        return str(answer.json()["access_token"])

    def whoami(self, token: str) -> requests.Response:
        """Ask Rucio whose account a token is of."""
        url = f"{self.stack.url}/rucio/accounts/whoami"
        headers = {"X-Rucio-Auth-Token": token}
        return requests.get(url, headers=headers, verify=self.stack.ca, allow_redirects=False, timeout=30)


@pytest.fixture(scope="module")
def site(stack: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The deployment with both beside it."""
    directory = tmp_path_factory.mktemp("rucio")
    services = "[skasrc.cavern.rse_xrootd, skasrc.cavern.rucio]"
    (directory / "services.yml").write_text(f"plugin: skasrc.cavern.services\nextra_services: {services}\n")
    secret = directory / "secret"
    secret.write_text(stack.secrets["iam_client_prepare_data"])
    secret.chmod(0o600)
    client: dict[str, Any] = {
        "credential": "client_credentials",
        "credential_file": str(secret),
        "client_id": "prepare-data",
    }
    xrootd: dict[str, Any] = {
        "name": "XROOTD",
        "url": XROOTD,
        "audience": XROOTD,
        "scope": "read:/",
        **client,
    }
    xrootd |= {"redirects": ["https://{{ deployment_catalogue.rse_xrootd_data.address }}:1095"]}
    user = f"u{uuid.uuid4().hex[:12]}"
    settings: dict[str, Any] = {
        "core_rses": [{"name": "WEB", "url": "{{ rse_web_url }}"}, xrootd],
        "rucio_users": [user],
    }
    inventory = ["-i", str(directory / "services.yml")]
    playbook("site.yml", *inventory, "-e", json.dumps(settings))
    try:
        stack.forget()
        rucio = Rucio(f"{stack.url}/rucio", "root", stack.secrets["rucio_root_password"], stack.ca)
        yield Site(stack, rucio, user, inventory, settings)
    finally:
        playbook("site.yml", "-e", "deployment_prune=true")


@pytest.fixture
def dataset(site: Site, rse: Callable[[str, bytes], Path]) -> tuple[str, dict[str, bytes]]:
    """A dataset of a file on each of the RSEs, and its contents."""
    run = uuid.uuid4().hex[:8]
    contents = {
        f"testing:{run}_{place}.dat": f"{run} {place} ".encode() * 1000 for place in ("WEB", "XROOTD")
    }
    for did, content in contents.items():
        scope, name = did.split(":")
        rse(DID.parse(did).path(), content)
        site.rucio.add_files(name.partition("_")[2].removesuffix(".dat"), scope, [described(name, content)])
    site.rucio.add_collection("testing", run, "DATASET", [("testing", did.split(":")[1]) for did in contents])
    return f"testing:{run}", contents


def test_a_second_run_and_a_check_change_nothing(site: Site) -> None:
    for arguments in ([], ["--check", "--diff"]):
        assert re.findall(r"changed=(\d+)", site.deploy(*arguments)) == ["0"]


def test_a_dataset_is_staged_from_where_rucio_has_its_files(
    site: Site, dataset: tuple[str, dict[str, bytes]], tmp_path: Path
) -> None:
    did, contents = dataset
    token = tmp_path / "token"
    token.write_text(site.stack.token(site.user))
    command = [str(Path(sys.executable).with_name("prepare-data")), "--token-file", str(token)]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "REQUESTS_CA_BUNDLE": site.stack.ca}
    environment |= {"PREPARE_DATA_URL": f"{site.stack.url}/prepare-data"}
    command += ["submit", did, "--to", "./run", "--wait"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with site.stack.session(site.user) as http:
        for name, content in ((did.split(":")[1], content) for did, content in contents.items()):
            at = f"{site.stack.url}/src/cavern/files/home/{site.user}/run/{name}"
            assert http.get(at, timeout=30).content == content
        (task,) = http.get(f"{site.stack.url}/prepare-data/v1/tasks", timeout=30).json()["tasks"]
        files = http.get(f"{site.stack.url}/prepare-data/v1/tasks/{task['id']}/files", timeout=30).json()[
            "files"
        ]
    assert {file["did"]: file["rse"] for file in files} == {
        known: known.partition("_")[2].removesuffix(".dat") for known in contents
    }
    # Core had no password, and Rucio a token that the issuer gave for it.
    assert "prepare-data" in site.tokens()


def test_users_without_an_account_are_refused(
    site: Site, dataset: tuple[str, dict[str, bytes]], http: requests.Session, user: str
) -> None:
    body = {"files": [{"did": dataset[0]}], "destination": "run"}
    refused = http.post(f"{site.stack.url}/prepare-data/v1/tasks", json=body, timeout=60)
    assert (refused.status_code, refused.json()["detail"]) == (403, f"Rucio has no account {user}")


def test_tokens_for_others_are_refused(site: Site) -> None:
    assert site.whoami(site.stack.token(site.user)).status_code == 401
    # It redirects to the account.
    found = site.whoami(site.exchanged())
    assert (found.status_code, Path(found.headers["location"]).name) == (303, site.user), found.text


def test_rucio_is_asked_with_the_users_own_token(site: Site, dataset: tuple[str, dict[str, bytes]]) -> None:
    did, contents = dataset
    site.stack.sql("rucio_db", "rucio", "DELETE FROM rucio.tokens WHERE oidc_scope IS NOT NULL")
    site.deploy("--tags", "core", core_rucio_account="")
    with site.stack.session(site.user) as http:
        task = ended(http, submit(http, site.stack.url, files=[{"did": did}], destination="again"))
    assert (task["state"], len(task["items"])) == ("SUCCEEDED", len(contents)), task
    assert site.tokens() == {site.user}
