"""Request smuggling: an incomplete body never consumes another client's request, response or credential on a
connection between HAProxy and a service."""

from __future__ import annotations

import base64
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from deployment import CATALOGUE, Deployment
from http2 import Headers, Http2, closes, connect, rest
from proxies import second_haproxy
from strangers import self_signed


@dataclass(frozen=True)
class Service:
    """A request that the service answers before its body arrives, and one that needs no credentials."""

    method: str
    refused: str
    public: str


SERVICES = {
    "reg": Service("POST", "/reg/resource-caps", "/reg/resource-caps"),
    "posix_mapper": Service("POST", "/src/posix-mapper/nothing", "/src/posix-mapper/capabilities"),
    "cavern": Service("PUT", "/src/cavern/files/home/nothing", "/src/cavern/capabilities"),
    "core": Service("POST", "/prepare-data/v1/nothing", "/prepare-data/ping"),
    "iam": Service("POST", "/iam/nothing", "/iam/health"),
}
SMALL, LARGE = 700, 20_000
"""Announced body sizes: one that HAProxy could buffer, one that it could not."""
BYSTANDERS = 8


def test_every_routed_service_is_attacked() -> None:
    assert set(SERVICES) == {key for key, service in CATALOGUE.items() if "route" in service}


# -- through HAProxy ------------------------------------------------------------------------------------------

Ending = Callable[[Http2, int], None]
ENDINGS: dict[str, tuple[Headers, bytes, Ending]] = {
    "an empty last frame": ([], b"", Http2.end),
    "a part and an empty last frame": ([], b"x" * 100, Http2.end),
    "trailers": ([], b"", Http2.trailers),
    "a reset": ([], b"x" * 100, Http2.reset),
    "the connection's end": ([], b"x" * 100, lambda http, _: http.close()),
    "nothing after 100-continue": ([("expect", "100-continue")], b"", Http2.end),
}


def bystanders(stack: Deployment, path: str, address: str = "") -> set[str]:
    """Return the results of other clients' concurrent requests on connections of their own."""

    def ask(_: int) -> list[str]:
        told = ["no connection"]
        with suppress(TimeoutError), Http2(stack, 4, address) as http:
            told.clear()
            for _ in range(3):
                told.append("no answer")
                answer = http.get(path)
                told[-1] = f"{answer.status}, {len(answer.body) > 0 and 'a body'}"
        return told

    with ThreadPoolExecutor(BYSTANDERS) as pool:
        return {told for asked in pool.map(ask, range(BYSTANDERS)) for told in asked}


def at_once(attack: Callable[[int | None, threading.Barrier], None]) -> None:
    """Attack with bodies of all sizes at once; no attacker's data completes another's body."""
    sizes = (SMALL, LARGE, None) * 2
    together = threading.Barrier(len(sizes))
    with ThreadPoolExecutor(len(sizes)) as pool:
        for done in [pool.submit(attack, size, together) for size in sizes]:
            done.result()


def leave_out(
    stack: Deployment, service: Service, ending: str, method: str, address: str = ""
) -> list[Http2]:
    """Attack with incomplete bodies, and return the attackers' connections, which are still open."""
    headers, begun, end = ENDINGS[ending]

    def attack(announced: int | None, together: threading.Barrier) -> None:
        http = Http2(stack, 1, address)
        left.append(http)
        length = [] if announced is None else [("content-length", str(announced))]
        stream = http.request(method, service.refused, headers + length, end=False)
        if begun:
            http.data(stream, begun)
        with suppress(TimeoutError):
            http.answer(stream)
        together.wait(30)
        with suppress(OSError):
            end(http, stream)

    left: list[Http2] = []
    at_once(attack)
    return left


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", SERVICES)
def test_an_incomplete_http2_body_consumes_no_other_request(
    stack: Deployment, name: str, ending: str
) -> None:
    service = SERVICES[name]
    assert bystanders(stack, service.public) == {"200, a body"}
    left = leave_out(stack, service, ending, service.method)
    assert bystanders(stack, service.public) == {"200, a body"}
    for http in left:
        http.close()


HTTP1 = {
    "closed before the body": ("", b"", socket.SHUT_RDWR),
    "closed in the body": ("", b"100\r\nabc", socket.SHUT_RDWR),
    "half closed in the body": ("", b"100\r\nabc", socket.SHUT_WR),
    "left in the body": ("", b"100\r\nabc", None),
    "no chunk": ("", b"3\r\nabc\r\nGET / HTTP/1.1\r\n\r\n", socket.SHUT_WR),
    "closed instead of continuing": ("Expect: 100-continue\r\n", b"", socket.SHUT_RDWR),
    "with an upgrade": ("Connection: Upgrade\r\nUpgrade: x\r\n", b"3\r\nabc\r\n", socket.SHUT_RDWR),
}


@pytest.mark.parametrize("ending", HTTP1)
@pytest.mark.parametrize("name", SERVICES)
def test_an_incomplete_http1_body_consumes_no_other_request(
    stack: Deployment, name: str, ending: str
) -> None:
    service = SERVICES[name]
    headers, begun, how = HTTP1[ending]
    head = f"{service.method} {service.refused} HTTP/1.1\r\nHost: {urlsplit(stack.url).netloc}\r\n{headers}"

    def attack(announced: int | None, together: threading.Barrier) -> None:
        length = "Transfer-Encoding: chunked" if announced is None else f"Content-Length: {announced}"
        connection = connect(stack, "http/1.1", timeout=0.5)
        connection.sendall(f"{head}{length}\r\n\r\n".encode() + begun)
        with suppress(TimeoutError):
            connection.recv(65536)
        together.wait(30)
        if how is not None:
            with suppress(OSError):
                connection.shutdown(how)
        left.append(connection)

    left: list[socket.socket] = []
    at_once(attack)
    assert bystanders(stack, service.public) == {"200, a body"}
    for connection in left:
        connection.close()


@pytest.mark.parametrize("announced", [2_000, LARGE], ids=["small", "large"])
def test_a_body_is_never_parsed_as_a_request(stack: Deployment, announced: int) -> None:
    """The next body on the same connection holds a request with the header by which HAProxy names the administrator."""
    forged = base64.b64encode(self_signed("cavernadmin").certificate.public_bytes(Encoding.DER)).decode()
    hidden = (
        "GET /src/cavern/logControl HTTP/1.1\r\nHost: localhost\r\n"
        f"X-Client-Certificate: {forged}\r\nConnection: close\r\n\r\n"
    ).encode()
    # Servers skip blank lines before a request, so the number of consumed bytes does not matter.
    carrier = b"\r\n" * announced + hidden
    for _ in range(6):
        with suppress(TimeoutError), Http2(stack, timeout=1) as http:
            stream = http.request(
                "PUT", "/src/cavern/files/home/nothing", [("content-length", str(announced))], end=False
            )
            http.answer(stream)
            http.end(stream)
            stream = http.request(
                "POST", "/src/cavern/nothing", [("content-length", str(len(carrier)))], end=False
            )
            http.data(stream, carrier, end=True)
            answer = http.answer(stream)
            assert "x-vo-authenticated" not in answer.headers
            assert answer.status != 200


def test_a_rejected_upload_does_not_affect_other_clients(stack: Deployment, tmp_path: Path) -> None:
    """No attacker is needed: curl sends a part, reads the rejection and closes the connection."""
    file = tmp_path / "upload"
    file.write_bytes(b"x" * 5_000_000)
    url = f"{stack.url}/src/cavern/files/home/nobody/upload"
    for _ in range(3):
        curls = [
            subprocess.Popen(
                [
                    *("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", stack.ca, *version),
                    *("-H", "Authorization: Bearer nonsense", "-T", str(file), url),
                ],
                stdout=subprocess.PIPE,
                text=True,
            )
            for version in (["--http2"], ["--http1.1"], ["--http1.1", "-H", "Expect:"])
        ]
        assert bystanders(stack, "/src/cavern/capabilities") == {"200, a body"}
        assert [curl.communicate()[0] for curl in curls] == ["401"] * 3
        assert bystanders(stack, "/src/cavern/capabilities") == {"200, a body"}


# -- HAProxy's own answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/nothing-here"])
@pytest.mark.parametrize("length", [SMALL, LARGE], ids=["small", "large"])
def test_a_body_answered_by_haproxy_is_never_parsed_as_a_request(
    stack: Deployment, path: str, length: int
) -> None:
    host = urlsplit(stack.url).netloc
    hidden = f"GET /reg/resource-caps HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    with closing(connect(stack, "http/1.1", timeout=2)) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n"
        connection.sendall(head.encode() + hidden)
        assert rest(connection).count(b"HTTP/1.1 ") <= 1


def test_a_body_answered_by_the_redirect_to_https_is_never_parsed_as_a_request(stack: Deployment) -> None:
    hidden = f"GET /hidden HTTP/1.1\r\nHost: {stack.public_name}\r\n\r\n".encode()
    with closing(socket.create_connection((stack.address("haproxy"), 80), 2)) as connection:
        connection.sendall(b"POST /shown HTTP/1.1\r\nHost: x\r\nContent-Length: 700\r\n\r\n" + hidden)
        answered = rest(connection)
    assert answered.startswith(b"HTTP/1.1 308 ")
    assert b"/hidden" not in answered


# -- the service alone: it closes a connection with an incomplete body ----------------------------------------


def inside(stack: Deployment, name: str, timeout: float) -> tuple[socket.socket, str]:
    """Return a connection to a service, and the beginning of a request that it rejects."""
    service = SERVICES[name]
    known = CATALOGUE[name]
    route = known["route"] if known.get("strip_route") else ""
    connection = socket.create_connection((stack.address(known["container"]), int(known["port"])), timeout)
    return connection, f"{service.method} {service.refused.removeprefix(route)} HTTP/1.1\r\nHost: x\r\n"


def of_all(check: Callable[[str], None]) -> None:
    """Check all services concurrently, since each check waits for a timeout."""
    with ThreadPoolExecutor(len(SERVICES)) as pool:
        for done in [pool.submit(check, name) for name in SERVICES]:
            done.result()


@pytest.mark.parametrize(
    "headers",
    [
        f"Content-Length: {LARGE}",
        "Transfer-Encoding: chunked",
        f"Content-Length: {SMALL}\r\nExpect: 100-continue",
    ],
    ids=["large", "chunked", "expect"],
)
def test_a_service_closes_a_connection_with_an_incomplete_body(stack: Deployment, headers: str) -> None:
    def check(name: str) -> None:
        connection, head = inside(stack, name, 15)
        with closing(connection):
            connection.sendall(f"{head}{headers}\r\n\r\n".encode())
            answered = rest(connection)
            assert b"\r\nconnection: close" in answered.lower(), (name, answered)
            if name != "reg":  # nginx requests a body that it will discard
                assert not answered.startswith(b"HTTP/1.1 100"), name
            assert closes(connection), name

    of_all(check)


@pytest.mark.parametrize("pause", [0, 0.3], ids=["at once", "later"])
@pytest.mark.parametrize("upgrade", ["", "websocket", "h2c"])
def test_a_service_never_parses_a_body_as_a_request(stack: Deployment, upgrade: str, pause: float) -> None:
    def check(name: str) -> None:
        hidden = f"GET {SERVICES[name].public} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        connection, head = inside(stack, name, 2)
        with closing(connection):
            if upgrade:
                head += f"Connection: Upgrade\r\nUpgrade: {upgrade}\r\n"
            connection.sendall(f"{head}Content-Length: {len(hidden)}\r\n\r\n".encode())
            time.sleep(pause)
            with suppress(ConnectionError):
                connection.sendall(hidden)
            assert rest(connection).count(b"HTTP/1.1 ") == 1, name

    of_all(check)


def test_a_service_keeps_a_connection_after_a_small_body(stack: Deployment) -> None:
    """A body that has arrived is drained before the rejection, so that the connection can be kept."""

    def check(name: str) -> None:
        connection, head = inside(stack, name, 2)
        with closing(connection):
            connection.sendall(f"{head}Content-Length: {SMALL}\r\n\r\n{'x' * SMALL}".encode() * 2)
            answered = rest(connection).lower()
            # nginx never waits for a body; it closes the connection.
            assert answered.count(b"http/1.1 ") == (1 if name == "reg" else 2), name
            assert (b"\r\nconnection: close" in answered) == (name == "reg"), name

    of_all(check)


# -- HAProxy alone: with servers that keep every connection, even with an incomplete body ---------------------


class Careless:
    """A server that responds after the headers and keeps every connection, even with an incomplete body."""

    def __init__(self, address: str) -> None:
        """Listen on a free port of *address*."""
        self._listening = socket.create_server((address, 0))
        self.address = f"{address}:{self._listening.getsockname()[1]}"
        self.requests: list[list[str]] = []
        """Request lines of each connection, received where a request was expected."""
        self.swallowed: list[str] = []
        """Request lines received where a body was expected."""
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        came: list[str] = []
        self.requests.append(came)
        with suppress(OSError, ValueError), connection, connection.makefile("rb") as stream:
            while line := stream.readline():
                came.append(line.decode().strip())
                headers = dict(self._headers(stream))
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 1\r\n\r\nx")
                if "transfer-encoding" in headers:
                    while size := int(self._owed(stream.readline()), 16):
                        self._owed(stream.read(size + 2))
                    stream.readline()
                else:
                    self._owed(stream.read(int(headers.get("content-length", 0))))

    @staticmethod
    def _headers(stream: BinaryIO) -> Iterator[tuple[str, str]]:
        while line := stream.readline().decode().strip():
            name, _, value = line.partition(":")
            yield name.lower(), value.strip()

    def _owed(self, body: bytes) -> bytes:
        self.swallowed += re.findall(r"GET /\S* HTTP/1\.1", body.decode("latin-1"))
        return body


@pytest.fixture(scope="module")
def careless(stack: Deployment) -> Iterator[tuple[Careless, str]]:
    """The server, which stands for all services, and the address of a HAProxy before it."""
    (network,) = stack.container("haproxy").attrs["NetworkSettings"]["Networks"].values()
    with closing(Careless(network["Gateway"])) as server:
        servers = {CATALOGUE[name]["container"]: server.address for name in SERVICES}
        with second_haproxy(stack, "haproxy-careless", servers) as address:
            yield server, address


@pytest.mark.parametrize("ending", ENDINGS)
def test_haproxy_does_not_reuse_a_connection_with_an_incomplete_body(
    stack: Deployment, careless: tuple[Careless, str], ending: str
) -> None:
    """Even if services do not protect themselves, no request follows an incomplete one on a connection."""
    server, address = careless
    for name, service in SERVICES.items():
        for method in (service.method, "GET")[: 2 if name == "cavern" else 1]:
            left = leave_out(stack, service, ending, method, address)
            assert bystanders(stack, service.public, address) == {"403, a body"}
            for http in left:
                http.close()
    assert server.swallowed == []


def test_haproxy_reuses_connections_for_complete_requests(
    stack: Deployment, careless: tuple[Careless, str]
) -> None:
    server, address = careless
    bystanders(stack, f"{SERVICES['cavern'].public}?whole", address)
    assert max(sum("?whole" in line for line in came) for came in server.requests) > 1
