"""A stand-in for the service that speaks v1 over real HTTP, and breaks when told to."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

TOKEN = "a.b.c"
Reply = Callable[["Handler"], None]


@dataclass
class Request:
    """A request as it arrived."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body's document."""
        return json.loads(self.body)


@dataclass
class Service:
    """What the stand-in answers, and what it was asked."""

    url: str
    replies: dict[tuple[str, str], list[Reply]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def on(self, method: str, path: str, *replies: Reply) -> None:
        """Give these answers one after the other; the last one from then on."""
        self.replies[method, path] = list(replies)

    def asked(self, method: str, path: str) -> list[Request]:
        """Requests of a kind, in order."""
        return [request for request in self.requests if (request.method, request.path) == (method, path)]


class Handler(BaseHTTPRequestHandler):
    """Hands requests to the service's replies."""

    protocol_version = "HTTP/1.1"
    service: Service

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.service.requests.append(Request(self.command, parts.path, parse_qs(parts.query), headers, body))
        replies = self.service.replies.get((self.command, parts.path))
        if replies is None:
            return problem(404, "Not found", "no such path")(self)
        return (replies.pop(0) if len(replies) > 1 else replies[0])(self)

    do_GET = do_POST = do_DELETE = _handle


def answer(document: Any, status: int = 200, kind: str = "application/json", **headers: str) -> Reply:
    """Answer with a document."""

    def reply(handler: Handler) -> None:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def problem(status: int, title: str, detail: str = "", **members: Any) -> Reply:
    """Answer with a problem document."""
    document = {"title": title, "status": status, "detail": detail, **members}
    return answer(document, status, "application/problem+json")


def hang_up(handler: Handler) -> None:
    """Close the connection without an answer."""
    handler.close_connection = True
    handler.connection.shutdown(2)


def stream(*pieces: bytes, complete: bool = True) -> Reply:
    """Answer with server-sent events, each piece a chunk; incomplete, the connection breaks after the last."""

    def reply(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for piece in pieces:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            handler.wfile.flush()
        if complete:
            handler.wfile.write(b"0\r\n\r\n")
        else:
            hang_up(handler)

    return reply


def event(kind: str, document: Any) -> bytes:
    """Write one event."""
    return f"event: {kind}\ndata: {json.dumps(document)}\n\n".encode()


def task(state: str = "QUEUED", **members: Any) -> dict[str, Any]:
    """Return a task's document."""
    return {
        "id": str(uuid.UUID(int=7)),
        "state": state,
        "info": None,
        "approach": "cavern_api_approach",
        "created": "2026-11-24T00:00:00.000000Z",
        "started": None,
        "finished": "2026-11-24T00:01:30Z" if state in {"SUCCEEDED", "FAILED", "CANCELLED"} else None,
        "files": 2,
        "files_done": 2 if state == "SUCCEEDED" else 0,
        "files_failed": 0,
        "bytes_done": 0,
        "bytes_total": None,
        "cancel": False,
        **members,
    }


def file(number: int, state: str = "STAGED", **members: Any) -> dict[str, Any]:
    """Return a file's document."""
    return {
        "number": number,
        "did": f"testing:{number}",
        "path": "p",
        "target": "vos://t",
        "state": state,
        **members,
    }


TASK = f"/v1/tasks/{task()['id']}"


@pytest.fixture
def service() -> Iterator[Service]:
    """A service on a port of its own."""
    handler = type("Bound", (Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        handler.service = Service(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield handler.service
        server.shutdown()
