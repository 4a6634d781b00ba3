"""Callers' input and credentials in the logs of all services."""

from __future__ import annotations

import base64
import hashlib
import socket
import subprocess
import time
import uuid
from urllib.parse import urlsplit

import pytest
import requests
import wire
from deployment import INVENTORY, ROOT, Deployment
from lxml import etree
from vospace_client.terms import CORE

VOS = "{http://www.ivoa.net/xml/VOSpace/v2.0}"
XML = {"Content-Type": "text/xml"}
NODE = (
    '<vos:node xmlns:vos="http://www.ivoa.net/xml/VOSpace/v2.0" xsi:type="vos:ContainerNode"'
    ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"/>'
)
BODY = b"what is written, and read"


@pytest.fixture
def granted(stack: Deployment, http: requests.Session, user: str) -> dict[str, str]:
    """Pre-authorised URLs of an existing file: one to write it, and one to read it."""
    service = f"{stack.url}/src/cavern"
    http.put(f"{service}/nodes/home/{user}", data=NODE, headers=XML, timeout=30).raise_for_status()
    http.put(f"{service}/files/home/{user}/f", data=BODY, timeout=30).raise_for_status()
    root = etree.fromstring(http.get(f"{service}/nodes?limit=0", timeout=30).content).get("uri")
    target = f"{root}/home/{user}/f"
    found = {}
    for direction, protocol in (("pushToVoSpace", "httpsput"), ("pullFromVoSpace", "httpsget")):
        document = (
            f'<vos:transfer xmlns:vos="{VOS[1:-1]}"><vos:target>{target}</vos:target>'
            f'<vos:direction>{direction}</vos:direction><vos:protocol uri="{CORE}{protocol}"/></vos:transfer>'
        )
        answer = http.post(f"{service}/synctrans", data=document, headers=XML, timeout=60)
        found[direction] = str(etree.fromstring(answer.content).findtext(f".//{VOS}endpoint"))
        assert "/preauth:" in found[direction]
    return found


def test_a_pre_authorised_url_is_for_one_direction(
    anonymous: requests.Session, granted: dict[str, str]
) -> None:
    push, pull = granted["pushToVoSpace"], granted["pullFromVoSpace"]
    for method in ("GET", "HEAD"):
        assert anonymous.request(method, push, timeout=30).status_code == 403
    assert anonymous.put(pull, data=b"x", timeout=30).status_code == 403
    assert anonymous.get(pull, timeout=30).content == BODY
    assert anonymous.put(push, data=b"x", timeout=30).status_code == 201
    md5 = base64.b64encode(hashlib.md5(b"x", usedforsecurity=False).digest()).decode()
    assert anonymous.head(pull, timeout=30).headers["Digest"] == f"md5={md5}"


def _logged(stack: Deployment) -> str:
    return "\n".join(container.logs().decode(errors="replace") for container in stack.containers().values())


def test_no_log_contains_a_pre_authorised_url(stack: Deployment, granted: dict[str, str]) -> None:
    path = urlsplit(granted["pullFromVoSpace"]).path
    token = path.partition("preauth:")[2].partition("/")[0]
    mark = uuid.uuid4().hex
    for prefix in (
        "preauth:",
        "preauth%3A",
        "preauth%3a",
        "preauth%253A",
        "%70reauth%3A",
        "PREAUTH:",
        "p%2572eauth:",
    ):
        written = path.replace("preauth:", prefix)
        for target in (written, written.replace("/home", "%2Fhome"), f"{written}?{mark}", f"/reg{written}"):
            wire.ask(stack, "GET", target, f"Referer: {granted['pullFromVoSpace']}")
        with socket.create_connection((str(urlsplit(stack.url).hostname), 80), timeout=30) as plain:
            plain.sendall(wire.request(stack, "GET", written, "Connection: close"))
            while plain.recv(1 << 16):
                pass
    end = f"/{mark}"
    wire.ask(stack, "GET", end)
    deadline = time.monotonic() + 10
    while mark not in (logged := _logged(stack)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert token not in logged
    assert token.partition(".")[0] not in logged


def test_logged_input_cannot_control_terminals_or_forge_lines(stack: Deployment) -> None:
    mark = uuid.uuid4().hex
    forged = "%0A2026-01-01T00:00:00Z%0D%1B%5B2J%C2%9B2J%E2%80%A8%E2%80%AE%7F%00"
    for path in ("/src/cavern/nodes/", "/prepare-data/", "/iam/", "/src/posix-mapper/", "/reg/"):
        wire.ask(stack, "GET", f"{path}{mark}{forged}", f"X-Request-ID: {mark}")
    raw = [line for line in _logged(stack).split("\n") if mark in line]
    assert len(raw) >= 5
    assert all(line.isprintable() for line in raw)
    told = subprocess.run(
        ["make", "--silent", "logs", f"TASK={mark}", "SINCE=5m", f"INVENTORY={INVENTORY}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = told.removesuffix("\n").split("\n")
    assert len(lines) >= 5
    assert all(line.isprintable() and mark in line for line in lines)


def test_clients_cannot_choose_their_request_id(stack: Deployment, http: requests.Session) -> None:
    task = str(uuid.uuid4())
    for path in ("/src/cavern/availability", "/prepare-data/health", "/iam/jwks", "/reg/resource-caps"):
        answer = http.get(f"{stack.url}{path}", headers={"X-Request-ID": task}, timeout=30)
        assert answer.status_code == 200
        assert answer.headers.get("X-Request-ID") != task
    assert task not in _logged(stack)
