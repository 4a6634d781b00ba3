"""Every command of the user's own description, run as it stands there but with TLS verified."""

from __future__ import annotations

import ipaddress
import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from deployment import Deployment

DID = "testing:prepare_data_test.txt"
RSE_PATH = "testing/84/1c/prepare_data_test.txt"
CONTAINER = (
    '<?xml version="1.0" encoding="UTF-8"?><node xmlns="http://www.ivoa.net/xml/VOSpace/v2.0" '
    'xsi:type="vs:ContainerNode" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
    'xmlns:vs="http://www.ivoa.net/xml/VOSpace/v2.0"/>'
)


@pytest.fixture
def administrator(stack: Deployment) -> Iterator[requests.Session]:
    """Who alone makes containers at the top."""
    with stack.session("cavernadmin") as session:
        yield session


@pytest.fixture
def container_node(stack: Deployment, administrator: requests.Session) -> Iterator[str]:
    """A top-level node of the test's own; the test may create it."""
    url = f"{stack.url}/src/cavern/nodes/test_container_{uuid.uuid4().hex[:8]}"
    yield url
    administrator.delete(url, timeout=30)


def curl_inside(stack: Deployment, token: str, *arguments: str) -> str:
    """Run curl in HAProxy's container, as the description does."""
    done = subprocess.run(
        [
            "docker",
            "exec",
            f"{stack.prefix}haproxy",
            "curl",
            "--silent",
            "--show-error",
            "-H",
            "accept: application/json",
            "-H",
            f"Authorization: Bearer {token}",
            *arguments,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_registry(stack: Deployment, anonymous: requests.Session) -> None:
    answer = anonymous.get(f"{stack.url}/reg/resource-caps", timeout=30)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    lines = dict(line.split(" = ") for line in answer.text.splitlines() if not line.startswith("#"))
    assert lines[f"ivo://{stack.authority}/cavern"] == f"{stack.url}/src/cavern/capabilities"


def test_root_node(stack: Deployment, anonymous: requests.Session) -> None:
    answer = anonymous.get(f"{stack.url}/src/cavern/nodes/", timeout=30)
    assert answer.status_code == 200
    assert 'xsi:type="vos:ContainerNode"' in answer.text


def test_container_needs_a_token(stack: Deployment, anonymous: requests.Session, container_node: str) -> None:
    answer = anonymous.put(
        container_node, data=CONTAINER, headers={"Content-Type": "application/xml"}, timeout=30
    )
    assert answer.status_code == 403
    assert "token" in answer.text
    assert anonymous.get(container_node, timeout=30).status_code == 404


def test_container_is_created_by_the_administrator(
    http: requests.Session, administrator: requests.Session, container_node: str
) -> None:
    headers = {"Content-Type": "application/xml"}
    assert http.put(container_node, data=CONTAINER, headers=headers, timeout=30).status_code == 403
    for status in (201, 409):
        answer = administrator.put(container_node, data=CONTAINER, headers=headers, timeout=30)
        assert answer.status_code == status
    assert "ContainerNode" in administrator.get(container_node, timeout=30).text


def test_posix_mapper(
    stack: Deployment, http: requests.Session, anonymous: requests.Session, user: str
) -> None:
    assert anonymous.get(f"{stack.url}/src/posix-mapper/users/pdowler", timeout=30).status_code == 404
    assert anonymous.get(f"{stack.url}/src/posix-mapper/uid", timeout=30).status_code == 401
    answer = http.get(f"{stack.url}/src/posix-mapper/uid", params={"user": user}, timeout=30)
    name, _, uid, gid = answer.text.strip().rstrip(":").split(":")
    assert (name, uid) == (user, gid)
    assert int(uid) >= 10000


@pytest.mark.parametrize("inside", [False, True], ids=["through HAProxy", "inside the network"])
def test_task(
    stack: Deployment, http: requests.Session, user: str, rse: Callable[[str, bytes], Path], inside: bool
) -> None:
    content = f"{uuid.uuid4()}\n".encode() * 1000
    rse(RSE_PATH, content)
    body = json.dumps([[DID, RSE_PATH, "./testing"]])
    core = "http://ska-src-local-data-preparer-core:8000/"
    if inside:
        text = curl_inside(
            stack, stack.token(user), "-X", "POST", "-H", "Content-Type: application/json", "-d", body, core
        )
    else:
        text = http.post(
            f"{stack.url}/prepare-data/", data=body, headers={"Content-Type": "application/json"}, timeout=60
        ).text
    submitted = json.loads(text)
    assert list(submitted) == ["task_id"]
    task = submitted["task_id"]

    deadline = time.monotonic() + 120
    while True:
        if inside:
            text = curl_inside(stack, stack.token(user), core + task)
        else:
            text = http.get(f"{stack.url}/prepare-data/{task}", timeout=60).text
        status = json.loads(text)
        if status["status"] not in {"PENDING", "STARTED"}:
            break
        assert time.monotonic() < deadline, text
        time.sleep(0.2)
    assert text.replace(" ", "") == '{"status":"SUCCESS","info":"Data provisioning successful"}'.replace(
        " ", ""
    )

    staged = stack.data / "cavern_data/cavern/home" / user / "testing/prepare_data_test.txt"
    assert staged.read_bytes() == content
    answer = http.get(f"{stack.url}/src/cavern/files/home/{user}/testing/prepare_data_test.txt", timeout=60)
    assert answer.content == content
    uid = http.get(f"{stack.url}/src/posix-mapper/uid", params={"user": user}, timeout=30).text.split(":")[2]
    assert staged.stat().st_uid == int(uid)


def test_logs_tell_of_a_task(
    stack: Deployment, http: requests.Session, user: str, rse: Callable[[str, bytes], Path]
) -> None:
    """The worker says what it does, and every service on the way names the task."""
    rse(RSE_PATH, b"logged")
    task = http.post(f"{stack.url}/prepare-data/", json=[[DID, RSE_PATH, "./testing"]], timeout=60).json()[
        "task_id"
    ]
    events = http.get(f"{stack.url}/prepare-data/v1/tasks/{task}/events", timeout=60)
    assert "SUCCEEDED" in events.text, events.text
    lines = {
        name: [line for line in stack.container(name).logs().decode().splitlines() if task in line]
        for name in ("haproxy", "src-cavern", "ska-src-local-data-preparer-celery-worker")
    }
    said = [json.loads(line)["message"] for line in lines["ska-src-local-data-preparer-celery-worker"]]
    target = f"/home/{user}/testing/prepare_data_test.txt"
    assert f"Ensuring user directory /home/{user}" in said
    source = f"http://rse-web:80/rse/deterministic/{RSE_PATH}"
    assert f"Staging file from {source} to {target}" in said
    assert f"Successfully staged file {target}: STAGED, 6 bytes" in said
    for name in ("haproxy", "src-cavern"):
        assert any("/src/cavern/" in json.loads(line)["path"] for line in lines[name]), name


def test_http_redirects_to_https(stack: Deployment) -> None:
    answer = requests.get(f"http://{stack.public_name}/reg/resource-caps", allow_redirects=False, timeout=30)
    assert answer.status_code in {301, 307, 308}
    assert answer.headers["Location"] == f"{stack.url}/reg/resource-caps"


def test_containers_stand_at_their_addresses(stack: Deployment) -> None:
    names = [
        "haproxy",
        "reg",
        "src-posix-mapper",
        "postgres_posixmapper",
        "src-cavern",
        "srcnodedb",
        "ska-src-local-data-preparer-rabbitmq",
        "ska-src-local-data-preparer-core",
        "ska-src-local-data-preparer-celery-worker",
        "rse-web",
        "iam",
    ]
    addresses = ipaddress.ip_network(stack.network["subnet"])
    for number, name in enumerate(names, start=2):
        networks = stack.container(name).attrs["NetworkSettings"]["Networks"]
        assert networks[stack.network["name"]]["IPAddress"] == str(addresses[number]), name
