"""Limits per client address: connections, requests and slow bodies."""

from __future__ import annotations

import json
import os
import socket
import ssl
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import requests
import wire
from deployment import Deployment, playbook

CONNECTIONS = 512
REQUESTS = 20_000
WINDOW = 10
PATIENCE = 30
"""Seconds over which the rate of a body is measured."""
RESPONSE_PATIENCE = 5
CONTAINER = (
    "<vos:node xmlns:vos='http://www.ivoa.net/xml/VOSpace/v2.0' xsi:type='vos:ContainerNode'"
    " xmlns:xsi='http://www.w3.org/2001/XMLSchema-instance'/>"
)


@pytest.fixture
def settled(stack: Deployment, anonymous: requests.Session) -> Iterator[None]:
    """Wait until the address that all tests share is within its limits again."""
    yield
    deadline = time.monotonic() + 6 * WINDOW
    while anonymous.get(stack.url, timeout=30).status_code == 429:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def _is_open(connection: socket.socket) -> bool:
    try:
        return bool(connection.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False


@pytest.mark.usefixtures("settled")
def test_connections_of_one_address_are_limited(stack: Deployment, anonymous: requests.Session) -> None:
    with ExitStack() as closing:
        taken = []
        for _ in range(CONNECTIONS + 40):
            try:
                connection = closing.enter_context(wire.connect(stack))
            except OSError:
                continue
            connection.setblocking(False)
            taken.append(connection)
        deadline = time.monotonic() + 5
        while (held := sum(map(_is_open, taken))) > CONNECTIONS and time.monotonic() < deadline:
            time.sleep(0.1)
        assert 0 < held <= CONNECTIONS
        # The services, and so staging, have other addresses.
        worker = stack.container("ska-src-local-data-preparer-celery-worker")
        program = (
            "import socket, time\n"
            f"held = [socket.create_connection(('{stack.public_name}', 443)) for _ in range({CONNECTIONS + 40})]\n"
            "time.sleep(1)\n"
            "for one in held: one.setblocking(False)\n"
            "def is_open(one):\n"
            "    try: return bool(one.recv(1))\n"
            "    except BlockingIOError: return True\n"
            "    except OSError: return False\n"
            "print(sum(map(is_open, held)))\n"
        )
        status, output = worker.exec_run(["python3", "-c", program])
        assert (status, output.strip()) == (0, str(CONNECTIONS + 40).encode())
    # HAProxy takes a while to notice that many closed connections.
    deadline = time.monotonic() + WINDOW
    while True:
        try:
            assert anonymous.get(stack.url, timeout=30).status_code == 200
            break
        except requests.ConnectionError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.usefixtures("settled")
def test_requests_of_one_address_are_limited(stack: Deployment, anonymous: requests.Session) -> None:
    together, answered, refused = 200, 0, False
    begin = time.monotonic()
    with wire.connect_tls(stack, timeout=60) as connection:
        # HAProxy estimates the rate from two periods, one of which has just begun.
        while answered < 3 * REQUESTS and not refused:
            # From one thread: OpenSSL does not bear that one connection is written and read at the same time.
            connection.sendall(wire.request(stack, "GET", "/") * together)
            received = b""
            while received.count(b"HTTP/1.1 200 ") < together and not refused:
                block = connection.recv(1 << 16)
                assert block, f"closed after {answered} answers"
                received += block
                refused = b"HTTP/1.1 429 " in received
            answered += received.count(b"HTTP/1.1 200 ")
    seconds = time.monotonic() - begin
    assert refused, f"{answered} requests in {seconds:.1f} s were all answered"
    # Whoever waits as long as Retry-After tells is served again, and not at the very limit.
    time.sleep(WINDOW)
    assert anonymous.get(stack.url, timeout=30).status_code == 200


Dribbled = dict[str, tuple[bytes, float]]
DOCUMENTS = {
    "/src/cavern/transfers": "POST",
    "/prepare-data/v1/tasks": "POST",
    "/src/cavern/nodes/x": "PUT",
}


@pytest.fixture(scope="module")
def slow_file(stack: Deployment) -> Iterator[tuple[requests.Session, str]]:
    """A user, and the path of a file in the user's area that does not exist yet."""
    user = f"u{uuid.uuid4().hex[:12]}"
    with stack.session(user) as http:
        home = f"{stack.url}/src/cavern/nodes/home/{user}"
        http.put(home, data=CONTAINER, headers={"Content-Type": "text/xml"}, timeout=30).raise_for_status()
        yield http, f"/src/cavern/files/home/{user}/slow"


@pytest.fixture(scope="module")
def dribbled(stack: Deployment, slow_file: tuple[requests.Session, str]) -> Dribbled:
    """Responses to bodies sent a byte at a time, by path, with their time; concurrently, since each takes long."""
    http, file = slow_file
    document = ("Content-Type: text/xml",)
    sent = {path: (method, *document) for path, method in DOCUMENTS.items()}
    sent[file] = ("PUT", f"Authorization: {http.headers['Authorization']!s}")

    def dribble(path: str) -> tuple[bytes, float]:
        method, *head = sent[path]
        with wire.connect_tls(stack) as connection:
            connection.sendall(wire.request(stack, method, path, *head, "Content-Length: 10000") + b"<")
            return wire.dribble(connection, 5, 2 * PATIENCE)

    with ThreadPoolExecutor() as threads:
        return dict(zip(sent, threads.map(dribble, sent), strict=True))


@pytest.mark.parametrize("path", DOCUMENTS)
def test_a_slow_document_is_ended(dribbled: Dribbled, path: str) -> None:
    answer, seconds = dribbled[path]
    assert seconds < PATIENCE + 10
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in answer.lower()


def test_a_slow_upload_is_ended(
    stack: Deployment, dribbled: Dribbled, slow_file: tuple[requests.Session, str]
) -> None:
    http, path = slow_file
    answer, seconds = dribbled[path]
    assert seconds < PATIENCE + 10
    assert answer.startswith(b"HTTP/1.1 408")
    assert http.get(f"{stack.url}{path}", timeout=30).status_code == 404


@pytest.fixture
def impatient(stack: Deployment) -> Iterator[None]:
    """Shorten Cavern's timeout, which is too long for a test in a deployment."""
    settings = {"cavern_settings": {"response_patience": RESPONSE_PATIENCE}}
    playbook("site.yml", "--tags", "cavern", "-e", json.dumps(settings))
    yield
    playbook("site.yml", "--tags", "cavern")


@pytest.mark.usefixtures("impatient")
def test_a_slow_download_is_ended(stack: Deployment, http: requests.Session, user: str) -> None:
    """Reading a byte now and then avoids idle timeouts, but the transfer is still ended."""
    size = 64 << 20  # more than all buffers on the path
    home = f"{stack.url}/src/cavern/nodes/home/{user}"
    http.put(home, data=CONTAINER, headers={"Content-Type": "text/xml"}, timeout=30).raise_for_status()
    path = f"/src/cavern/files/home/{user}/large"
    http.put(f"{stack.url}{path}", data=os.urandom(size), timeout=120).raise_for_status()
    with wire.connect_tls(stack, receive_buffer=8192) as connection:
        authorization = f"Authorization: {http.headers['Authorization']!s}"
        connection.sendall(wire.request(stack, "GET", path, authorization))
        begin = time.time()
        taken = 0
        while time.time() < begin + 3 * RESPONSE_PATIENCE:
            taken += len(connection.recv(1))
            time.sleep(0.2)
        told = stack.container("src-cavern").logs(since=begin - 1)
        assert b"a response was cut off: its client took" in told
        # Only buffered data is left.
        while block := _rest(connection):
            taken += len(block)
    assert 0 < taken < size
    assert len(http.get(f"{stack.url}{path}", timeout=120).content) == size


def _rest(connection: ssl.SSLSocket) -> bytes:
    try:
        return connection.recv(1 << 16)
    except (ConnectionResetError, ssl.SSLError):
        return b""
