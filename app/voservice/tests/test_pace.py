"""A client that hardly reads holds no response."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from voservice.pace import ResponsePace
from voservice.server import Protocol

PATIENCE = 1.0
PACE = 100_000
SIZE = 24 << 20
"""More than all the buffers of the two sockets."""
ENDED = threading.Event()


async def streamed(_: Request) -> Response:
    async def blocks() -> AsyncIterator[bytes]:
        try:
            for _ in range(SIZE >> 20):
                yield bytes(1 << 20)
        finally:
            ENDED.set()

    return StreamingResponse(blocks(), headers={"Content-Length": str(SIZE)})


async def whole(_: Request) -> Response:
    return Response(bytes(SIZE))


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Port of a server as services run it, with little patience."""
    protocol: Any = partial(Protocol, response_patience=PATIENCE, response_pace=PACE)
    routes = [Route("/streamed", streamed), Route("/whole", whole)]
    config = uvicorn.Config(Starlette(routes=routes), http=protocol, ws="none", log_config=None)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield int(listening.getsockname()[1])
        server.should_exit = True
        thread.join()


@pytest.fixture
def ask(port: int) -> Iterator[Callable[[str], socket.socket]]:
    """Sends a request by a connection whose client's buffer is small."""
    opened = []

    def ask(path: str) -> socket.socket:
        connection = socket.socket()
        opened.append(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        connection.settimeout(30)
        connection.connect(("127.0.0.1", port))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return connection

    yield ask
    for connection in opened:
        connection.close()


def rest(connection: socket.socket, pause: float = 0.0) -> int:
    """Bytes that come until the end, or until all of the response is there."""
    taken = 0
    while taken < SIZE:
        try:
            block = connection.recv(1 << 20)
        except ConnectionResetError:
            break
        if not block:
            break
        taken += len(block)
        time.sleep(pause)
    return taken


@pytest.mark.parametrize("path", ["/streamed", "/whole"])
def test_a_response_that_is_hardly_read_is_cut_off(ask: Callable[[str], socket.socket], path: str) -> None:
    ENDED.clear()
    connection = ask(path)
    taken = 0
    deadline = time.monotonic() + 4 * PATIENCE
    while time.monotonic() < deadline:
        taken += len(connection.recv(1))
        time.sleep(0.05)
    if path == "/streamed":
        # Nobody makes what nobody reads.
        assert ENDED.wait(10)
    assert taken + rest(connection) < SIZE


@pytest.mark.parametrize("path", ["/streamed", "/whole"])
def test_a_response_that_is_read_in_bursts_is_whole(ask: Callable[[str], socket.socket], path: str) -> None:
    connection = ask(path)
    # Several rounds of patience, each with more than it wants.
    taken = 0
    deadline = time.monotonic() + 5 * PATIENCE
    while time.monotonic() < deadline:
        burst = 0
        while burst < 4 << 20 and taken < SIZE:
            block = connection.recv(1 << 20)
            assert block, f"cut off after {taken} bytes"
            burst += len(block)
            taken += len(block)
        # Well within its patience, also where the machine has other work.
        time.sleep(0.5 * PATIENCE)
    assert taken + rest(connection) >= SIZE


class Transport:
    """What is left to be sent, as a test has it."""

    def __init__(self) -> None:
        self.left, self.aborted = 100_000, False

    def get_write_buffer_size(self) -> int:
        return self.left

    def abort(self) -> None:
        self.aborted = True


@pytest.mark.parametrize("another", [True, False], ids=["another request", "the same request"])
async def test_the_next_request_on_a_connection_begins_anew(another: bool) -> None:
    """What one client of a proxy has used of its patience is not the next one's."""
    transport: Any = Transport()
    pace = ResponsePace(transport, asyncio.get_running_loop(), PATIENCE, PACE)
    for _ in range(2):
        if another:
            pace.begin()
        pace.pause()
        await asyncio.sleep(0.7 * PATIENCE)
        transport.left -= 10
        pace.resume()
    assert transport.aborted is not another
