"""A collector of traces for tests: it keeps what it is sent (OTLP over HTTP)."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest.mock import patch

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from voservice.tracing import delivery


@dataclass(frozen=True)
class Found:
    """A span that arrived; ids are hexadecimal."""

    name: str
    service: str
    kind: str
    trace: str
    id: str
    parent: str
    links: list[str]
    attributes: Mapping[str, Any]
    failed: bool


class Collector:
    """What arrived: `bodies` and `headers` of POSTs, path and headers of `gets`.

    `answers` are the statuses of the next answers, instead of 200.
    """

    def __init__(self, url: str) -> None:
        """Be reached at *url*."""
        self.url = url
        self.bodies: list[bytes] = []
        self.headers: list[Mapping[str, str]] = []
        self.gets: list[tuple[str, Mapping[str, str]]] = []
        self.answers: list[int] = []

    def spans(self) -> list[Found]:
        """Return the spans in the order of their ends."""
        return [
            _found(span, service)
            for body in self.bodies
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for service in [_values(resource.resource.attributes)["service.name"]]
            for scope in resource.scope_spans
            for span in scope.spans
        ]


def _found(span: Span, service: str) -> Found:
    return Found(
        name=span.name,
        service=service,
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        links=[link.trace_id.hex() for link in span.links],
        attributes=_values(span.attributes),
        failed=span.status.code == Status.STATUS_CODE_ERROR,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector until the end of the block, in which `tracing.close` waits for a slow machine too."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            collector.gets.append((self.path, dict(self.headers)))
            self._answer(200)

        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            collector.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            collector.headers.append(dict(self.headers))
            self._answer(collector.answers.pop(0) if collector.answers else 200)

        def _answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with patch.object(delivery, "PATIENCE", 30):
            yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
