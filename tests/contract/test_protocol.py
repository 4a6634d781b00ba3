"""What else OpenCADC's Cavern is known to answer, and this project's tools against it."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from contract_site import Site, changed
from deployment import playbook
from lxml import etree
from prepare_data_client.did import DID
from preparer.ledger.tables import ACTIVE
from vo_clients import Shell
from vospace_client.terms import CORE, INHERIT

VOS = "{http://www.ivoa.net/xml/VOSpace/v2.0}"
ROOT_URI = "vos://contract.example~cavern"
GROUP = "ivo://contract.example/gms?survey"
TOKEN = "ivo://ivoa.net/sso#token"
XML = {"Content-Type": "text/xml"}
NODE = (
    '<vos:node xmlns:vos="http://www.ivoa.net/xml/VOSpace/v2.0" '
    'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="vos:{kind}" uri="{uri}">'
    "<vos:properties>{properties}</vos:properties>{rest}</vos:node>"
)
TRANSFER = (
    '<vos:transfer xmlns:vos="http://www.ivoa.net/xml/VOSpace/v2.0" version="2.1">'
    "{targets}<vos:direction>{direction}</vos:direction>{rest}</vos:transfer>"
)


def transfer(direction: str, *paths: str, rest: str = "") -> str:
    targets = "".join(f"<vos:target>{ROOT_URI}{path}</vos:target>" for path in paths)
    return TRANSFER.format(direction=direction, targets=targets, rest=rest)


def protocol(name: str, method: str | None = TOKEN) -> str:
    security = f'<vos:securityMethod uri="{method}"/>' if method else ""
    return f'<vos:protocol uri="{CORE}{name}">{security}</vos:protocol>'


class Space:
    """The Cavern as one user sees it."""

    def __init__(self, site: Site, http: requests.Session, home: str) -> None:
        """Speak for the session's user, whose area is *home*."""
        self.http, self.url, self.home = http, f"{site.url}/src/cavern", home

    def node(
        self, method: str, path: str, kind: str = "ContainerNode", inherits: bool = False, **properties: str
    ) -> requests.Response:
        named = {f"{CORE}{key}": value for key, value in properties.items()}
        named |= {INHERIT: "true"} if inherits else {}
        entries = "".join(f'<vos:property uri="{key}">{value}</vos:property>' for key, value in named.items())
        rest = "<vos:nodes/>" if kind == "ContainerNode" else ""
        document = NODE.format(kind=kind, uri=f"{ROOT_URI}{path}", properties=entries, rest=rest)
        return self.http.request(method, f"{self.url}/nodes{path}", data=document, headers=XML, timeout=60)

    def put(self, path: str, content: bytes) -> None:
        answer = self.http.put(
            f"{self.url}/files{path}", data=content, headers={"Content-Type": "text/plain"}, timeout=60
        )
        assert answer.status_code == 201, answer.text

    def get(self, path: str) -> requests.Response:
        return self.http.get(f"{self.url}/files{path}", timeout=60)

    def post(self, endpoint: str, document: Any, **options: Any) -> requests.Response:
        return self.http.post(f"{self.url}/{endpoint}", data=document, timeout=60, **options)

    def run(self, job: str) -> tuple[str, str | None]:
        """Final phase of a job, and its error."""
        answer = self.http.post(f"{job}/phase", data={"PHASE": "RUN"}, allow_redirects=False, timeout=60)
        assert answer.status_code == 303, answer.text
        deadline = time.monotonic() + 30
        while (phase := self.http.get(f"{job}/phase", timeout=60).text) in ("PENDING", "QUEUED"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        if phase == "EXECUTING":
            time.sleep(0.5)
            phase = self.http.get(f"{job}/phase", timeout=60).text
        error = self.http.get(f"{job}/error", timeout=60)
        return phase, error.text if error.status_code == 200 else None

    def asynchronously(self, document: str) -> tuple[str, str | None]:
        answer = self.post("transfers", document, headers=XML, allow_redirects=False)
        assert answer.status_code == 303, answer.text
        return self.run(answer.headers["Location"])


@pytest.fixture(scope="module")
def ada(site: Site) -> Iterator[Space]:
    with site.session("cavernadmin") as administrator, site.session("ada") as http:
        made = Space(site, administrator, "").node("PUT", "/home/ada", creator="ada")
        assert made.status_code in (201, 409), made.text
        space = Space(site, http, "/home/ada")
        assert space.node("PUT", "/home/ada/protocol").status_code in (201, 409)
        yield space


@pytest.mark.parametrize("direction", ["pullToVoSpace", "pushFromVoSpace"])
def test_what_is_not_implemented_says_so(ada: Space, direction: str) -> None:
    source = f'<vos:protocol uri="{CORE}httpget"><vos:endpoint>http://rse-web/x</vos:endpoint></vos:protocol>'
    document = transfer(direction, "/home/ada/protocol/pulled", rest=source)
    assert ada.asynchronously(document) == ("ERROR", f"{direction} not implemented")
    assert ada.get("/home/ada/protocol/pulled").status_code == 404
    # The synchronous form begins as if it went well.
    answer = ada.post("synctrans", document, headers=XML, allow_redirects=False)
    assert answer.status_code == 303
    ended = ada.http.get(answer.headers["Location"], timeout=60)
    assert (ended.status_code, ended.text) == (404, "result not found: transferDetails\n")
    target = f"{ROOT_URI}/home/ada/protocol/pulled"
    by_parameters = ada.post(
        "synctrans", {"TARGET": target, "DIRECTION": direction, "PROTOCOL": f"{CORE}httpget"}
    )
    assert by_parameters.status_code == 400
    assert by_parameters.text == f"InternalFault (invalid direction: Direction[{direction}])\n"


def test_negotiation(ada: Space) -> None:
    path = "/home/ada/protocol/negotiated"
    asked = transfer("pushToVoSpace", path, rest=protocol("httpsput") + protocol("httpsput", None))
    answer = ada.post("synctrans", asked, headers=XML)
    root = etree.fromstring(answer.content)
    # Nobody in particular may never push.
    (endpoint,) = [item.text for item in root.iterfind(f"{VOS}protocol/{VOS}endpoint")]
    assert endpoint == f"{ada.url}/files{path}"
    assert ada.http.put(endpoint, data=b"bytes", timeout=60).status_code == 201
    # A negotiation is never over: nothing ties the bytes to it.
    assert ada.asynchronously(transfer("pullFromVoSpace", path, rest=protocol("httpsget"))) == (
        "EXECUTING",
        None,
    )
    redirected = ada.post(
        "synctrans",
        {"TARGET": ROOT_URI + path, "DIRECTION": "pullFromVoSpace", "PROTOCOL": f"{CORE}httpsget"},
    )
    assert redirected.content == b"bytes"
    missing = ada.asynchronously(transfer("pullFromVoSpace", f"{path}-none", rest=protocol("httpsget")))
    assert missing == ("ERROR", "target is not a data node")
    # Taken for what it is, and then made nothing of.
    begun = ada.post("transfers", asked, headers={"Content-Type": "application/xml"}, allow_redirects=False)
    assert begun.status_code == 303
    assert ada.run(begun.headers["Location"]) == ("ERROR", "could not create Transfer from request")
    assert ada.post("synctrans", asked.replace("vos:direction", "vos:way"), headers=XML).status_code == 400


def test_moves(ada: Space) -> None:
    ada.put("/home/ada/protocol/old", b"moved")
    assert ada.node("PUT", "/home/ada/protocol/box").status_code == 201
    kept = transfer(f"{ROOT_URI}/home/ada/protocol/new", "/home/ada/protocol/old")
    assert ada.asynchronously(kept) == ("ERROR", "copyNode is not implemented")
    gone = "<vos:keepBytes>false</vos:keepBytes>"
    into = transfer(f"{ROOT_URI}/home/ada/protocol/box", "/home/ada/protocol/old", rest=gone)
    assert ada.asynchronously(into) == ("COMPLETED", None)
    assert ada.get("/home/ada/protocol/box/old").content == b"moved"
    ada.put("/home/ada/protocol/other", b"other")
    onto = transfer(f"{ROOT_URI}/home/ada/protocol/other", "/home/ada/protocol/box/old", rest=gone)
    phase, error = ada.asynchronously(onto)
    assert (phase, (error or "").partition(":")[0]) == ("ERROR", "DuplicateNode")
    # In one request, which is answered the same whatever came of it; the job tells.
    back = transfer(f"{ROOT_URI}/home/ada/protocol/back", "/home/ada/protocol/box/old", rest=gone)
    for document, outcome in ((back, "COMPLETED"), (onto, "ERROR")):
        answer = ada.post("synctrans", document, headers=XML, allow_redirects=False)
        assert answer.status_code == 303, answer.text
        job = answer.headers["Location"].removesuffix("/results/transferDetails")
        assert job != answer.headers["Location"]
        assert ada.get("/home/ada/protocol/back").content == b"moved"
        assert ada.http.get(f"{job}/phase", timeout=60).text == outcome


@pytest.mark.parametrize("kind", ["application/x-tar", "application/zip"])
def test_packages(ada: Space, kind: str) -> None:
    ada.node("PUT", "/home/ada/protocol/packed")
    ada.put("/home/ada/protocol/packed/a", b"in the package")
    view = (
        '<vos:view uri="vos://cadc.nrc.ca~vospace/CADC/std/Pkg-1.0">'
        f'<vos:param uri="{CORE}format">{kind}</vos:param></vos:view>'
    )
    document = transfer("pullFromVoSpace", "/home/ada/protocol/packed", "/home/ada/none", rest=view)
    begun = ada.post("synctrans", document, headers=XML, allow_redirects=False)
    assert begun.status_code == 303
    answer = ada.http.get(begun.headers["Location"], timeout=60)
    assert answer.headers["content-type"].partition(";")[0] == kind
    if kind == "application/zip":
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.read("/packed/a") == b"in the package"
    else:
        with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
            member = tar.extractfile("packed/a")
            assert member
            assert member.read() == b"in the package"


def test_groups_are_asked_of_the_issuers_service(site: Site, ada: Space) -> None:
    path = "/home/ada/protocol/shared"
    assert ada.node("PUT", path, groupwrite=GROUP).status_code == 201
    ada.put(f"{path}/file", b"for the group")
    assert ada.node("POST", f"{path}/file", "DataNode", groupread=GROUP).status_code == 200
    # On the way to it every container has to be readable.
    for above in ("/home/ada", "/home/ada/protocol"):
        assert ada.node("POST", above, groupread=GROUP).status_code == 200
    with site.session("grace") as member, site.session("heidi") as stranger:
        grace, heidi = Space(site, member, ""), Space(site, stranger, "")
        assert grace.get(f"{path}/file").content == b"for the group"
        grace.put(f"{path}/hers", b"by a member")
        assert heidi.get(f"{path}/file").status_code == 403
        foreign = ada.node("POST", path, groupread="ivo://elsewhere.example/gms?survey")
        assert (foreign.status_code, "non-local groups" in foreign.text) == (400, True)
        # Members of certain groups make their own allocation, and no other.
        assert grace.node("PUT", "/home/grace").status_code in (201, 409)
        assert grace.node("PUT", "/home/grace2").status_code == 403
        assert heidi.node("PUT", "/home/heidi").status_code == 403


def test_the_vos_client_uploads_nothing_and_curl_does(
    site: Site, ada: Space, clients: Path, tmp_path: Path
) -> None:
    """As docs/opencadc.md says."""
    shell = Shell(site, clients, tmp_path, "ada")
    area = f"{ROOT_URI}/home/ada/protocol"
    sent = tmp_path / "sent"
    sent.write_bytes(b"by hand")
    refused = shell.run("vcp", str(sent), f"{area}/by-vcp", status=255)
    assert "No protocol/endpoint returned" in refused
    assert ada.get("/home/ada/protocol/by-vcp").status_code == 204
    command = ["curl", "--silent", "--show-error", "--fail-with-body", "--cacert", site.ca]
    command += ["-H", f"Authorization: Bearer {site.token('ada')}", "--upload-file", str(sent)]
    subprocess.run([*command, f"{ada.url}/files/home/ada/protocol/by-curl"], check=True)
    shell.run("vcp", f"{area}/by-curl", str(tmp_path / "received"))
    assert (tmp_path / "received").read_bytes() == b"by hand"
    shell.run("vmkdir", f"{area}/by-vos")
    shell.run("vmv", f"{area}/by-curl", f"{area}/by-vos")
    assert "by-curl" in shell.run("vls", f"{area}/by-vos")
    shell.run("vrm", f"{area}/by-vos/by-curl")


def play(site: Site, directory: Path, nodes: list[dict[str, Any]]) -> int:
    """Bring nodes to a state by the collection's module; returns how many tasks changed something."""
    token = directory / "token"
    token.write_text(site.token("ada"))
    token.chmod(0o600)
    service = {"url": site.url, "ca_path": site.ca, "token_file": str(token)}
    tasks = [{"skasrc.cavern.node": service | node} for node in nodes]
    book = directory / "play.yml"
    content = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}"},
        "tasks": tasks,
    }
    book.write_text(yaml.safe_dump([content]))
    return changed(playbook(str(book), inventory="localhost,"))


def test_the_node_module(site: Site, ada: Space, tmp_path: Path) -> None:
    top = "/home/ada/protocol/module"
    nodes: list[dict[str, Any]] = [
        {"path": f"{top}/deep/er", "parents": True, "properties": {"title": "by the module"}},
        {"path": f"{top}/link", "kind": "link", "target": f"{top}/deep"},
    ]
    assert play(site, tmp_path, nodes) == 2
    assert play(site, tmp_path, nodes) == 0
    ada.put(f"{top}/deep/er/file", b"through a link")
    assert ada.get(f"{top}/link/er/file").content == b"through a link"
    # All of it, by the recursive job of the service.
    gone = [{"path": top, "state": "absent", "recursive": True}]
    assert play(site, tmp_path, gone) == 1
    assert play(site, tmp_path, gone) == 0
    assert ada.http.get(f"{ada.url}/nodes{top}", timeout=60).status_code == 404


def staged(site: Site, http: requests.Session, body: dict[str, Any]) -> dict[str, Any]:
    """A task at its end."""
    api = f"{site.url}/prepare-data/v1/tasks"
    submitted = http.post(api, json=body, timeout=60)
    assert submitted.status_code == 201, submitted.text
    deadline = time.monotonic() + 300
    while (found := http.get(f"{api}/{submitted.json()['id']}", timeout=60).json())["state"] in ACTIVE:
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
    return dict(found)


def test_what_is_staged_into_a_shared_container_is_for_its_group(site: Site, ada: Space) -> None:
    """A file that is written there by hand is not."""
    path = "/home/ada/protocol/inheriting"
    assert ada.node("PUT", path, inherits=True, groupread=GROUP).status_code == 201
    for above in ("/home/ada", "/home/ada/protocol"):
        assert ada.node("POST", above, groupread=GROUP).status_code == 200
    source = site.data / "rse_data" / DID.parse("relay:shared.dat").path()
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_bytes(b"for the group")
    files = [
        {"did": "relay:shared.dat", "destination": f"./protocol/inheriting{below}"} for below in ("", "/deep")
    ]
    begun = time.time()
    task = staged(site, ada.http, {"files": files})
    assert task["files_done"] == len(files), task
    ada.put(f"{path}/by-hand", b"for nobody")
    with site.session("grace") as member, site.session("heidi") as stranger:
        for file in ("shared.dat", "deep/shared.dat"):
            assert Space(site, member, "").get(f"{path}/{file}").content == b"for the group"
            assert Space(site, stranger, "").get(f"{path}/{file}").status_code == 403
        assert Space(site, member, "").get(f"{path}/by-hand").status_code == 403
    # Readers never meet a file before it is theirs to read: it has its permissions when it gets its name.
    asked = [(entry["method"], entry["path"]) for entry in site.requests("cavern", begun)]
    granted = next(
        n for n, (method, where) in enumerate(asked) if method == "POST" and where.endswith(".part")
    )
    assert granted < next(n for n, (_, where) in enumerate(asked) if where.endswith("/synctrans"))


def test_many_files_by_relay(site: Site, ada: Space) -> None:
    """Most are as they should be, one is not there, and one is another than the request says."""
    contents = {f"relay:file{number}.dat": os.urandom(1000 + number) for number in range(40)}
    contents["relay:large.dat"] = os.urandom(1 << 20) * 48
    for did, content in contents.items():
        file = site.data / "rse_data" / DID.parse(did).path()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    wrong = hashlib.md5(b"something else", usedforsecurity=False).hexdigest()
    files: list[dict[str, str]] = [{"did": did} for did in (*contents, "relay:none.dat")]
    files.append({"did": "relay:file0.dat", "destination": "./protocol/wrong", "md5": wrong})
    worker = "ska-src-local-data-preparer-celery-worker"
    begun = time.time()
    # What it knows of the Cavern it knows until it ends.
    site.container(worker).restart()
    site.wait_until_healthy(worker, 300)
    api = f"{site.url}/prepare-data/v1/tasks"
    body = {"files": files, "destination": "./protocol/relayed"}
    submitted = ada.http.post(api, json=body, timeout=60)
    assert submitted.status_code == 201, submitted.text
    task = submitted.json()["id"]
    deadline = time.monotonic() + 300
    while (found := ada.http.get(f"{api}/{task}", timeout=60).json())["state"] in ACTIVE:
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
    assert found["files_done"] == len(contents), found
    results = ada.http.get(f"{api}/{task}/files", params={"limit": 100}, timeout=60).json()["files"]
    faults = {(file["did"], file["fault"]) for file in results if file["fault"]}
    assert faults == {("relay:none.dat", "SourceNotFound"), ("relay:file0.dat", "ChecksumMismatch")}
    area = site.data / "cavern_data/cavern/home/ada/protocol"
    for did, content in contents.items():
        name = did.partition(":")[2]
        assert (area / "relayed" / name).read_bytes() == content
        stored = os.getxattr(area / "relayed" / name, f"user.{CORE}MD5").decode()
        assert stored == hashlib.md5(content, usedforsecurity=False).hexdigest()
    # Nothing of what failed is left, under no name.
    assert len(list((area / "relayed").iterdir())) == len(contents)
    assert list((area / "wrong").iterdir()) == []
    # Many began at once, and one asked.
    asked = site.requests("cavern", begun)
    assert len([entry for entry in asked if entry["path"].endswith("/error")]) == 1
    # Four requests a file; besides, those for directories, for what Cavern can do, and for what fails.
    assert len(asked) <= 4 * len(contents) + 24
    # Large files go through the worker, and never stay there as a whole.
    memory = site.container(worker).stats(stream=False)["memory_stats"]
    assert memory["usage"] - memory["stats"].get("inactive_file", 0) < 512 << 20
