"""Names of files and directories on the deployed stack: taken as they are, once, on every path to the disk and back."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
from deployment import Deployment
from prepare_data_client.did import DID
from tasks import FINAL

Place = Callable[[str, bytes], Path]
NAMES = [
    "a%41",
    "aA",
    "col%43",
    "colC",
    "a%2Fb",
    "100%",
    "x+y",
    "q?x",
    "h#x",
    "p;q",
    " a b ",
    "é",
    "e\u0301",
    "☃",
]


@pytest.fixture
def staged(stack: Deployment, http: requests.Session) -> Callable[..., dict[str, Any]]:
    """Stage files and return the task at its end."""

    def stage(files: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
        api = f"{stack.url}/prepare-data/v1/tasks"
        answer = http.post(api, json={"files": files, **options}, timeout=60)
        assert answer.status_code == 201, answer.text
        return ended(http, f"{api}/{answer.json()['id']}")

    return stage


def ended(http: requests.Session, url: str) -> dict[str, Any]:
    """The task once it is final, with its files."""
    deadline = time.monotonic() + 120
    while (task := http.get(url, timeout=30).json())["state"] not in FINAL:
        assert time.monotonic() < deadline, task
        time.sleep(0.2)
    found: dict[str, Any] = task | {"files": http.get(f"{url}/files", timeout=30).json()["files"], "url": url}
    return found


def test_every_name_of_a_directory_is_its_own(
    stack: Deployment, http: requests.Session, user: str, rse: Place, staged: Callable[..., dict[str, Any]]
) -> None:
    run = uuid.uuid4().hex[:8]
    wanted: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(NAMES):
        did = f"testing:{run}_{number}.dat"
        rse(DID.parse(did).path(), name.encode())
        wanted[name] = {"did": did, "destination": f"./{name}", "size": len(name.encode())}
    task = staged(list(wanted.values()), lifetime=3600)
    assert task["state"] == "SUCCEEDED", task
    area = stack.data / "cavern_data/cavern/home" / user
    assert sorted(path.name for path in area.iterdir()) == sorted(NAMES)
    for name, file in wanted.items():
        leaf = file["did"].partition(":")[2]
        assert {path.name: path.read_bytes() for path in (area / name).iterdir()} == {leaf: name.encode()}
        assert f"/home/{user}/{name}/{leaf}" in {entry["target"] for entry in task["files"]}
        url = f"{stack.url}/src/cavern/files/home/{user}/{quote(name, safe='')}/{leaf}"
        assert http.get(url, timeout=30).content == name.encode()

    # What is listed is what was staged.
    estimate = http.post(
        f"{stack.url}/prepare-data/v1/estimate", json={"files": list(wanted.values())}, timeout=60
    ).json()
    assert (estimate["present"], estimate["missing"]) == (len(NAMES), []), estimate

    assert http.post(f"{task['url']}/release", timeout=30).status_code == 202
    deadline = time.monotonic() + 120
    while http.get(task["url"], timeout=30).json()["expires"] is not None:
        assert time.monotonic() < deadline
        time.sleep(0.3)
    states = {entry["state"] for entry in http.get(f"{task['url']}/files", timeout=30).json()["files"]}
    assert states == {"RELEASED"}
    assert [path for path in area.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("given", [True, False], ids=["with Rucio's path", "by its DID alone"])
def test_a_did_whose_name_begins_with_a_slash_is_staged(
    stack: Deployment,
    user: str,
    rse: Place,
    staged: Callable[..., dict[str, Any]],
    given: bool,
) -> None:
    did = DID.parse(f"testing:/lead/{uuid.uuid4().hex}.fits")
    rse(did.path(), b"content")
    file = {"did": str(did)} | ({"path": did.path()} if given else {})
    task = staged([file], destination="./in")
    assert task["state"] == "SUCCEEDED", task
    target = stack.data / f"cavern_data/cavern/home/{user}/in{did.name}"
    assert target.read_bytes() == b"content"
    assert [(entry["did"], entry["target"]) for entry in task["files"]] == [
        (str(did), f"/home/{user}/in{did.name}")
    ]


def test_what_no_name_can_hold_is_refused_by_its_field(stack: Deployment, http: requests.Session) -> None:
    for name in ("a\\b", "a\x00b", "a\x85b", "..", " "):
        body = {"files": [{"did": "testing:x", "destination": f"./{name}" if name.strip() else name}]}
        answer = http.post(f"{stack.url}/prepare-data/v1/tasks", json=body, timeout=30)
        assert answer.status_code == 422, answer.text
        assert answer.json()["errors"][0]["pointer"] == "/files/0/destination"
