"""Rucio asked with a token that a site's own issuer gave: Keycloak and Rucio beside the deployment."""

from __future__ import annotations

import json
import secrets
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import jwt
import keycloak
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import rsa
from deployment import Deployment, playbook
from keycloak import REALM, Keycloak
from prepare_data_client.did import DID
from rucio_server import Rucio, described
from tasks import ended, submit

# Keycloak is assembled, and Rucio's image built, before the first of them.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
PASSWORD = secrets.token_urlsafe(16)
SCOPE = "testing"


@dataclass
class Site:
    """The deployment, its issuer and its Rucio, which knows one user."""

    stack: Deployment
    issuer: Keycloak
    rucio: Rucio
    settings: dict[str, Any]
    ids: dict[str, str]
    """Keycloak's own ids of clients, by their names."""
    user: str

    def session(self) -> requests.Session:
        """Return an HTTP session of the user."""
        session = self.stack.session()
        session.headers["Authorization"] = f"Bearer {self.issuer.token(self.user, PASSWORD)}"
        return session

    def granted(self) -> str:
        """Return a token that prepare-data's client gets for itself, asked for as core asks."""
        answer = self.issuer.grant(
            "prepare-data",
            self.settings["secrets_overrides"]["iam_client_prepare_data"],
            grant_type="client_credentials",
            audience="rucio",
            scope="openid profile",
        )
        assert answer.ok, answer.text
        return str(answer.json()["access_token"])

    def whoami(self, token: str) -> requests.Response:
        """Ask Rucio whose account a token is of."""
        url = f"{self.stack.url}/rucio/accounts/whoami"
        headers = {"X-Rucio-Auth-Token": token}
        return requests.get(url, headers=headers, verify=self.stack.ca, allow_redirects=False, timeout=30)

    def identities(self) -> list[str]:
        """Return the identities by whose tokens of an issuer Rucio was asked, each with its account."""
        statement = (
            "SELECT DISTINCT account || ': ' || identity FROM rucio.tokens WHERE oidc_scope IS NOT NULL"
        )
        return self.stack.sql("rucio_db", "rucio", statement).splitlines()

    def put(self, name: str, *files: dict[str, Any]) -> str:
        """Tell Rucio of a dataset of files on the site's RSE; returns its DID."""
        self.rucio.add_files("default", SCOPE, list(files))
        self.rucio.add_collection(SCOPE, name, "DATASET", [(SCOPE, file["name"]) for file in files])
        return f"{SCOPE}:{name}"

    def map_audience(self) -> None:
        """Have Keycloak put Rucio's audience into the tokens of prepare-data's client."""
        self.issuer.administer(
            "POST",
            f"/{REALM}/clients/{self.ids['prepare-data']}/protocol-mappers/models",
            {
                "name": "rucio",
                "protocol": "openid-connect",
                "protocolMapper": "oidc-audience-mapper",
                "config": {"included.client.audience": "rucio", "access.token.claim": "true"},
            },
        )


@pytest.fixture(scope="module")
def site(stack: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Both beside the deployment, and the client `rucio`, which nothing gives its audience to yet."""
    inventory = tmp_path_factory.mktemp("rucio") / "services.yml"
    inventory.write_text("plugin: skasrc.cavern.services\nextra_services: [skasrc.cavern.rucio]\n")
    gateway = str(next(ip_network(stack.network["subnet"]).hosts()))
    user = f"ada-{uuid.uuid4().hex[:8]}"
    with keycloak.keycloak(gateway, 8443) as issuer:
        settings, ids = issuer.register(stack.url, [])
        ids["rucio"] = issuer.client("rucio")
        issuer.user(user, PASSWORD)
        service = issuer.administer("GET", f"/{REALM}/clients/{ids['prepare-data']}/service-account-user")
        settings |= {"rucio_users": [user], "rucio_service_subject": service["id"]}
        try:
            playbook("site.yml", "-i", str(inventory), "-e", json.dumps(settings))
            stack.forget()
            rucio = Rucio(f"{stack.url}/rucio", "root", stack.secrets["rucio_root_password"], stack.ca)
            stack.sql("rucio_db", "rucio", "DELETE FROM rucio.tokens WHERE oidc_scope IS NOT NULL")
            yield Site(stack, issuer, rucio, settings, ids, user)
        finally:
            playbook("site.yml", "-e", "deployment_prune=true")
            stack.forget()


@pytest.fixture
def dataset(site: Site, rse: Callable[[str, bytes], Path]) -> tuple[str, dict[str, bytes]]:
    """A dataset of two files, and their contents by DID."""
    run = uuid.uuid4().hex[:8]
    contents = {f"{SCOPE}:{run}_{number}.dat": f"{run} {number} ".encode() * 1000 for number in range(2)}
    for did, content in contents.items():
        rse(DID.parse(did).path(), content)
    files = [described(did.partition(":")[2], content) for did, content in contents.items()]
    return site.put(run, *files), contents


@pytest.fixture(scope="module")
def mapped(site: Site) -> Site:
    """The site, after Keycloak has been told to put Rucio's audience into tokens."""
    site.map_audience()
    return site


def test_a_token_for_others_is_refused_and_core_says_what_it_lacks(
    site: Site, dataset: tuple[str, dict[str, bytes]]
) -> None:
    # Keycloak heeds no audience that is asked for here.
    token = site.granted()
    audience = jwt.decode(token, options={"verify_signature": False})["aud"]
    assert "rucio" not in audience
    assert site.whoami(token).status_code == 401
    body = {"files": [{"did": dataset[0]}], "destination": "none"}
    with site.session() as http:
        refused = http.post(f"{site.stack.url}/prepare-data/v1/tasks", json=body, timeout=60)
        tasks = http.get(f"{site.stack.url}/prepare-data/v1/tasks", timeout=60).json()["tasks"]
    assert refused.status_code == 503, refused.text
    told = refused.json()["detail"]
    assert told.startswith("Rucio refuses the token that the client prepare-data of this service has"), told
    # In whatever order.
    named = told.partition("its audience is ")[2].partition(", without rucio (preparer_rucio_audience)")[0]
    assert sorted(named.split(", ")) == sorted(audience), told
    assert (tasks, site.identities()) == ([], [])


def test_a_dataset_is_staged_whole_once_the_token_is_for_rucio(
    mapped: Site, dataset: tuple[str, dict[str, bytes]]
) -> None:
    # Nothing is deployed or started again: core asks for another token where one was refused.
    did, contents = dataset
    with mapped.session() as http:
        task = ended(http, submit(http, mapped.stack.url, files=[{"did": did}], destination="run"))
        assert task["state"] == "SUCCEEDED", task
        assert {file["did"]: file["size"] for file in task["items"]} == {
            known: len(content) for known, content in contents.items()
        }
        for file in task["items"]:
            assert (file["state"], file["rse"]) == ("STAGED", "default"), file
            at = f"{mapped.stack.url}/src/cavern/files{file['target']}"
            assert http.get(at, timeout=30).content == contents[file["did"]]
    subject = mapped.settings["rucio_service_subject"]
    assert mapped.identities() == [f"prepare-data: SUB={subject}, ISS={mapped.issuer.issuer}"]


def test_bytes_are_compared_with_the_checksum_that_rucio_has(
    mapped: Site, rse: Callable[[str, bytes], Path]
) -> None:
    run, content = uuid.uuid4().hex[:8], b"what Rucio was told of"
    rse(DID.parse(f"{SCOPE}:{run}.dat").path(), content[::-1])
    did = mapped.put(f"{run}_bad", described(f"{run}.dat", content))
    with mapped.session() as http:
        (file,) = ended(http, submit(http, mapped.stack.url, files=[{"did": did}], destination="bad"))[
            "items"
        ]
    assert (file["state"], file["fault"]) == ("FAILED", "ChecksumMismatch"), file


def test_rucio_takes_what_its_issuer_signed_alone(mapped: Site) -> None:
    good = mapped.granted()
    # It redirects to the account.
    found = mapped.whoami(good)
    assert (found.status_code, Path(found.headers["location"]).name) == (303, "prepare-data"), found.text
    header, claims = jwt.get_unverified_header(good), jwt.decode(good, options={"verify_signature": False})
    claims |= {"jti": str(uuid.uuid4()), "exp": int(time.time()) + 600}
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    forged = jwt.encode(claims, key, "RS256", headers={"kid": header["kid"], "typ": header["typ"]})
    assert mapped.whoami(forged).status_code == 401
    # Of the same issuer, for others.
    assert mapped.whoami(mapped.issuer.token(mapped.user, PASSWORD)).status_code == 401
