"""Staging from XRootD: by TLS that is verified, with a token, from the data server that the redirector names."""

from __future__ import annotations

import json
import subprocess
import uuid
import zlib
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import requests
from deployment import Deployment, playbook
from prepare_data_client.did import DID
from tasks import ended, submit
from voms import Grid

pytestmark = pytest.mark.slow
AUDIENCE = "https://rse-xrootd:1094"


@pytest.fixture(scope="module")
def grid(stack: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """The files of a grid's authority, for an XRootD that no service of the deployment is."""
    network = ip_network(stack.network["subnet"])
    return Grid(tmp_path_factory.mktemp("grid"), str(network[60]))


@pytest.fixture(scope="module")
def xrootd(stack: Deployment, grid: Grid, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The deployment with XRootD beside its own web server."""
    directory = tmp_path_factory.mktemp("xrootd")
    (directory / "services.yml").write_text(
        "plugin: skasrc.cavern.services\nextra_services: [skasrc.cavern.rse_xrootd]\n"
    )
    secret = directory / "secret"
    secret.write_text(stack.secrets["iam_client_prepare_data"])
    secret.chmod(0o600)
    rses = [
        {
            "name": "XROOTD",
            "url": AUDIENCE,
            "redirects": ["https://{{ deployment_catalogue.rse_xrootd_data.address }}:1095"],
            "credential": "client_credentials",
            "credential_file": str(secret),
            "client_id": "prepare-data",
            "audience": AUDIENCE,
            "scope": "read:/",
        },
        {
            "name": "GRID",
            "url": grid.url,
            "ca_file": str(grid.ca),
            "credential": "x509_proxy",
            "credential_file": str(grid.proxy),
        },
    ]
    more = ["-i", str(directory / "services.yml"), "-e", json.dumps({"core_rses": rses})]
    playbook("site.yml", *more)
    try:
        yield stack
    finally:
        playbook("site.yml", "-e", "deployment_prune=true")


def curl(stack: Deployment, path: str, *options: str) -> tuple[int, dict[str, str]]:
    """Status and headers of what Cavern's container is answered by the redirector."""
    command = ["docker", "exec", f"{stack.prefix}src-cavern", "curl", "--silent", "--output", "/dev/null"]
    command += ["--dump-header", "-", "--cacert", "/config/ca-bundle.pem", *options]
    told = subprocess.run(
        [*command, f"https://rse-xrootd:1094/{path}"], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told
    # The last of its answers.
    first, *lines = told.stdout.replace("\r", "").strip().rpartition("\n\n")[2].splitlines()
    pairs = (line.partition(":") for line in lines)
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}


def test_files_come_from_xrootd(
    xrootd: Deployment, http: requests.Session, rse: Callable[[str, bytes], Path]
) -> None:
    run = uuid.uuid4().hex[:8]
    contents = {f"testing:{run}_{number}.dat": f"{run} {number} ".encode() * 1000 for number in range(10)}
    for did, content in contents.items():
        rse(DID.parse(did).path(), content)
    path = DID.parse(next(iter(contents))).path()
    # The redirector sends everybody to the data server, which asks for a token.
    data_server = f"https://{xrootd.address('rse-xrootd-data')}:1095/"
    assert curl(xrootd, path)[1]["location"].startswith(data_server)
    assert curl(xrootd, path, "--location")[0] == 403

    files = [
        {"did": did, "adler32": f"{zlib.adler32(content):08x}", "size": len(content)}
        for did, content in contents.items()
    ]
    task = ended(http, submit(http, xrootd.url, files=files, destination=run, rse="XROOTD"))
    assert task["state"] == "SUCCEEDED", task
    assert {(file["state"], file["rse"]) for file in task["items"]} == {("STAGED", "XROOTD")}
    for file in task["items"]:
        at = f"{xrootd.url}/src/cavern/files{file['target']}"
        assert http.get(at, timeout=30).content == contents[file["did"]]

    # What it is not asked for it does not say, and what it says is compared: the wrong checksum is refused.
    # Where the RSE is not named, the other one is waited for, which has no proxy yet.
    did = f"testing:{run}_wrong.dat"
    rse(DID.parse(did).path(), b"content")
    wrong = [{"did": did, "adler32": "00000001"}]
    task = ended(http, submit(http, xrootd.url, files=wrong, destination=run, rse="XROOTD"))
    assert [(file["state"], file["fault"]) for file in task["items"]] == [("FAILED", "ChecksumMismatch")]
    none = [{"did": "testing:none"}]
    task = ended(http, submit(http, xrootd.url, files=none, destination=run, rse="XROOTD"))
    assert [(file["state"], file["fault"]) for file in task["items"]] == [("FAILED", "SourceNotFound")]

    # Its redirector sends the token on in the address of the data server; no log of ours has it.
    for name in ("src-cavern", "ska-src-local-data-preparer-celery-worker"):
        log = xrootd.container(name).logs().decode()
        assert "authz=" not in log
        assert "eyJ" not in log


def test_an_estimate_asks_it(
    xrootd: Deployment, http: requests.Session, rse: Callable[[str, bytes], Path]
) -> None:
    did = f"testing:{uuid.uuid4().hex}.dat"
    rse(DID.parse(did).path(), b"content")
    body: dict[str, Any] = {"files": [{"did": did}, {"did": "testing:none"}], "rse": "XROOTD"}
    answer = http.post(f"{xrootd.url}/prepare-data/v1/estimate", json=body, timeout=60)
    assert answer.ok, answer.text
    told = answer.json()
    assert (told["bytes"], told["missing"]) == (7, ["testing:none"])


def test_a_virtual_organisation_vouches_for_who_stages(
    xrootd: Deployment, grid: Grid, http: requests.Session, rse: Callable[[str, bytes], Path]
) -> None:
    did, content = f"testing:{uuid.uuid4().hex}.dat", b"of members alone"
    rse(DID.parse(did).path(), content)
    request: dict[str, Any] = {"files": [{"did": did}], "rse": "GRID"}
    with grid.serving(xrootd) as container:
        # A proxy like any other is not enough there.
        grid.sign_in(container)
        (file,) = ended(http, submit(http, xrootd.url, **request, destination="none"))["items"]
        assert (file["state"], file["fault"]) == ("FAILED", "TransferFailed"), container.logs().decode()
        grid.sign_in(container, *grid.join())
        (file,) = ended(http, submit(http, xrootd.url, **request, destination="run"))["items"]
        assert (file["state"], file["rse"]) == ("STAGED", "GRID"), (file, container.logs().decode())
    assert http.get(f"{xrootd.url}/src/cavern/files{file['target']}", timeout=30).content == content
