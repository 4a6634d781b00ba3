"""Requests of one connection stay apart, whatever the application leaves unread."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send
from voservice import boundaries
from voservice.boundaries import RequestBoundaries
from voservice.server import Protocol

LINGER = 0.5


async def refuse(_: Request) -> Response:
    return PlainTextResponse("no\n", 403)


async def refuse_in_parts(_: Request) -> Response:
    async def parts() -> AsyncIterator[str]:
        yield "n"
        yield "o\n"

    return StreamingResponse(parts(), 403)


async def take(request: Request) -> Response:
    return PlainTextResponse(f"{len(await request.body())}\n")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Port of a server as services run it."""
    routes = [
        Route("/refuse", refuse, methods=["GET", "POST"]),
        Route("/parts", refuse_in_parts, methods=["GET", "POST"]),
        Route("/take", take, methods=["POST"]),
    ]
    config = uvicorn.Config(Starlette(routes=routes), http=Protocol, ws="none", log_config=None)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening, pytest.MonkeyPatch.context() as patch:
        patch.setattr(boundaries, "LINGER_SECONDS", LINGER)
        patch.setattr(boundaries, "DRAIN_SECONDS", 0.2)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield int(listening.getsockname()[1])
        server.should_exit = True
        thread.join()


@pytest.fixture
def connect(port: int) -> Iterator[Callable[[], socket.socket]]:
    opened = []

    def make() -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", port), 3 * LINGER)
        opened.append(connection)
        return connection

    yield make
    for connection in opened:
        connection.close()


def request(path: str, headers: str = "", body: bytes = b"", method: str = "POST") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode() + body


def answer(connection: socket.socket, ends: bytes) -> bytes:
    """What comes until *ends*, in lower case."""
    received = b""
    while not received.endswith(ends):
        data = connection.recv(65536)
        if not data:
            break
        received += data
    return received.lower()


def ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False


@pytest.mark.parametrize("path", ["/refuse", "/parts"])
@pytest.mark.parametrize("framing", ["Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n"])
@pytest.mark.parametrize("pause", [0, 0.05])
def test_a_connection_is_kept_once_a_small_body_is_read(
    connect: Callable[[], socket.socket], path: str, framing: str, pause: float
) -> None:
    body = b"abc" if "Length" in framing else b"3\r\nabc\r\n0\r\n\r\n"
    connection = connect()
    for _ in range(3):
        connection.sendall(request(path, framing))
        time.sleep(pause)
        connection.sendall(body)
        told = answer(connection, b"o\n" if path == "/refuse" else b"0\r\n\r\n")
        assert told.startswith(b"http/1.1 403 ")
        assert b"connection: close" not in told


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_connection_is_kept_for_requests_without_a_body(
    connect: Callable[[], socket.socket], method: str
) -> None:
    connection = connect()
    for _ in range(3):
        connection.sendall(
            request("/refuse", "Content-Length: 0\r\n" if method == "POST" else "", method=method)
        )
        assert b"connection: close" not in answer(connection, b"no\n")


@pytest.mark.parametrize("path", ["/refuse", "/parts"])
@pytest.mark.parametrize(
    ("headers", "sent"),
    [
        ("Content-Length: 3\r\n", b"ab"),
        ("Content-Length: 1000000\r\n", b""),
        ("Content-Length: 1000000\r\n", b"x" * 999_999),
        ("Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n"),
        ("Transfer-Encoding: chunked\r\n", b"f4240\r\n" + b"x" * 999_999),
    ],
    ids=["short", "large", "large short", "chunked", "large chunked"],
)
def test_a_connection_is_closed_while_a_body_is_owing(
    connect: Callable[[], socket.socket], path: str, headers: str, sent: bytes
) -> None:
    connection = connect()
    connection.sendall(request(path, headers))
    connection.sendall(sent)
    told = answer(connection, b"no\n" if path == "/refuse" else b"0\r\n\r\n")
    assert told.startswith(b"http/1.1 403 ")
    assert b"\r\nconnection: close\r\n" in told
    assert ended(connection)


def test_an_answer_is_not_lost_to_a_reset(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    connection.sendall(request("/refuse", "Content-Length: 5000000\r\n", b"x" * 4_000_000))
    # All was taken, though nobody wants it.
    assert answer(connection, b"no\n").startswith(b"http/1.1 403 ")
    connection.sendall(b"x" * 1_000_000)
    assert ended(connection)


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
def test_what_follows_a_request_for_another_protocol_is_no_request(
    connect: Callable[[], socket.socket], protocol: str
) -> None:
    hidden = request("/take", "Content-Length: 1\r\n", b"x")
    connection = connect()
    upgrade = f"Connection: Upgrade\r\nUpgrade: {protocol}\r\nContent-Length: {len(hidden)}\r\n"
    connection.sendall(request("/refuse", upgrade))
    time.sleep(0.05)
    connection.sendall(hidden)
    told = answer(connection, b"\0")
    assert told.count(b"http/1.1 ") == 1
    assert b"\r\nconnection: close\r\n" in told


def test_nobody_is_asked_for_a_body_that_is_not_read(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    connection.sendall(request("/refuse", "Content-Length: 3\r\nExpect: 100-continue\r\n"))
    told = answer(connection, b"no\n")
    assert told.startswith(b"http/1.1 403 ")
    assert b"\r\nconnection: close\r\n" in told
    assert ended(connection)


def test_who_expects_to_be_asked_for_a_body_is_asked_where_it_is_read(
    connect: Callable[[], socket.socket],
) -> None:
    connection = connect()
    connection.sendall(request("/take", "Content-Length: 3\r\nExpect: 100-continue\r\n"))
    assert answer(connection, b"\r\n\r\n").startswith(b"http/1.1 100 ")
    connection.sendall(b"abc")
    told = answer(connection, b"3\n")
    assert told.startswith(b"http/1.1 200 ")
    assert b"connection: close" not in told


async def test_an_application_reads_after_it_has_begun_to_answer() -> None:
    """What was read ahead is the application's all the same."""
    sent: list[Message] = []
    incoming = [
        {"type": "http.request", "body": part, "more_body": part != b"c"} for part in (b"a", b"b", b"c")
    ]
    read = b""

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        nonlocal read
        read += (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (message := await receive())["more_body"]:
            read += message["body"]
        read += message["body"]
        await send({"type": "http.response.body", "body": b"done"})

    await RequestBoundaries(app)({"type": "http", "headers": [(b"content-length", b"3")]}, receive, send)
    assert read == b"abc"
    assert sent[0]["headers"] == []
    assert sent[1:] == [{"type": "http.response.body", "body": b"done"}]


def test_every_service_is_served_so() -> None:
    """Whoever runs a web server of its own would have none of this."""
    sources = Path(__file__).parents[2].glob("*/src/**/*.py")
    own = [
        path.name
        for path in sources
        if not path.name.startswith("testing") and "import uvicorn" in path.read_text(encoding="utf-8")
    ]
    assert own == ["server.py"]


def test_closing(port: int) -> None:
    """A client that leaves in the middle leaves nothing behind."""
    with closing(socket.create_connection(("127.0.0.1", port), 5)) as connection:
        connection.sendall(request("/refuse", "Content-Length: 100\r\n", b"x"))
    with closing(socket.create_connection(("127.0.0.1", port), 5)) as connection:
        connection.sendall(request("/take", "Content-Length: 1\r\n", b"x"))
        assert answer(connection, b"1\n").startswith(b"http/1.1 200 ")
