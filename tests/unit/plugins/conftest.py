# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A web service on a port of its own whose answers a test writes: real HTTP, but nothing behind it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest


@dataclass(frozen=True)
class Request:
    """A request as it arrived."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body's document."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """An answer to be sent."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


Handle = Callable[[Request], Reply]


@dataclass
class Service:
    """The service: its URL, its answers by method and path, and what it was asked."""

    url: str
    replies: dict[tuple[str, str], list[Reply | Handle]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    fallback: Handle = lambda _request: Reply(b"NodeNotFound", 404)

    @staticmethod
    def reply(body: bytes | str = b"", status: int = 200, **headers: str) -> Reply:
        """Return an answer."""
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        return Reply(body.encode() if isinstance(body, str) else body, status, named)

    @staticmethod
    def document(value: Any, status: int = 200) -> Reply:
        """Return an answer with a JSON document."""
        return Reply(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    def on(self, method: str, path: str, *replies: Reply | Handle) -> None:
        """Answer so, one after the other; the last from then on."""
        self.replies[method, path] = list(replies)

    def asked(self, method: str, path: str) -> list[Request]:
        """Return the requests of a kind."""
        return [request for request in self.requests if (request.method, request.path) == (method, path)]

    def answer(self, request: Request) -> Reply:
        """Return the answer to a request."""
        self.requests.append(request)
        replies = self.replies.get((request.method, request.path), [self.fallback])
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        return reply if isinstance(reply, Reply) else reply(request)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: Service

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = parse_qs(parts.query)
        reply = self.service.answer(Request(self.command, parts.path, query, headers, body))
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    do_GET = do_POST = do_PUT = do_DELETE = _handle


@pytest.fixture
def service() -> Iterator[Service]:
    """Serve until the end of the test."""
    handler = type("Bound", (_Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        handler.service = Service(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield handler.service
        server.shutdown()
