"""Makes spans, and tells where they belong."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from voservice.config import ServiceSettings
from voservice.logging import bound
from voservice.tracing import Attributes, Value
from voservice.tracing.delivery import Delivery

PARENT = "traceparent"
STATE = "tracestate"
DETAILS = 1000
"""Details that are recorded of one request or job in a process: a trace of more is none that anybody reads."""
_room: ContextVar[list[int] | None] = ContextVar("room", default=None)
_OURS = re.compile(r"(?:^|,)\s*skasrc=([0-9a-f]{32})\s*(?:,|$)")


class Handle:
    """A span that is recorded."""

    def __init__(self, recorded: trace.Span) -> None:
        """Stand for *recorded*."""
        self.recorded = recorded

    def set(self, name: str, value: Value) -> None:
        """Set an attribute."""
        self.recorded.set_attribute(name, value)

    def fail(self, kind: str) -> None:
        """Note that it failed, with the kind of the error: its text may hold what is nobody's business."""
        self.recorded.set_attribute("error.type", kind)
        self.recorded.set_status(StatusCode.ERROR)

    def answered(self, status: int) -> None:
        """Note how another service answered."""
        self.recorded.set_attribute("http.response.status_code", status)
        if status >= 400:
            self.fail(str(status))


class Recorder:
    """The spans of one process.

    Whoever can send a request can send a ``traceparent``, and have traces of others grow and be kept. So services sign
    theirs, in ``tracestate``, with a secret of the deployment, and continue no other; a stranger's becomes a link.
    """

    def __init__(self, service: str, settings: ServiceSettings) -> None:
        """Record spans of *service*, and send them to the collector that the settings name."""
        self.delivery = Delivery(settings.traces_endpoint, settings.traces_token.get_secret_value())
        self._key = settings.traces_key.get_secret_value().encode()
        self._inside = f"{settings.public_url}/"
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.traces_ratio)),
            # Not what the environment says: settings alone configure a service.
            resource=Resource(
                {
                    "service.name": service,
                    "service.namespace": settings.public_url.partition("://")[2],
                    "host.name": socket.gethostname(),
                    "process.pid": os.getpid(),
                }
            ),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(self.delivery)
        self._tracer = self._provider.get_tracer("voservice")
        self._propagator = TraceContextTextMapPropagator()

    def close(self) -> None:
        """Send what is left, for a second at most."""
        self._provider.shutdown()

    @contextmanager
    def begun(
        self,
        name: str,
        attributes: Attributes | None = None,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        context: Context | None = None,
        links: Sequence[Link] = (),
    ) -> Iterator[Handle]:
        """Make a span of the block."""
        recorded = self._tracer.start_span(name, context, kind, attributes, links)
        handle = Handle(recorded)
        with trace.use_span(
            recorded, end_on_exit=True, record_exception=False, set_status_on_exception=False
        ):
            try:
                yield handle
            except Exception as error:
                handle.fail(type(error).__name__)
                raise

    @contextmanager
    def within(
        self, name: str, attributes: Attributes | None, *, detail: bool = False
    ) -> Iterator[Handle | _Unrecorded]:
        """Make a span of the block if it belongs to a trace; a *detail* only while those are not too many."""
        if not trace.get_current_span().get_span_context().is_valid or (detail and not self._has_room()):
            yield UNRECORDED
            return
        with self.begun(name, attributes) as handle:
            yield handle

    @contextmanager
    def resumed(
        self,
        name: str,
        context: str | None,
        attributes: Attributes | None,
        since: datetime | None = None,
        kind: str = "INTERNAL",
    ) -> Iterator[Handle]:
        """Make a span of the block, and name its trace in what the block logs."""
        before = self._propagator.extract({PARENT: context}, Context()) if context else Context()
        if since is not None:
            waited = self._tracer.start_span("wait", before, start_time=int(since.timestamp() * 1e9))
            before = before if context else trace.set_span_in_context(waited, before)
            waited.end()
        begun = self.begun(name, attributes, kind=SpanKind[kind], context=before)
        with begun as handle, self._entered(handle):
            yield handle

    @contextmanager
    def served(self, name: str, headers: Mapping[str, str]) -> Iterator[Handle]:
        """Make a span of a request that is answered in the block, and name its trace in what is logged."""
        context, links = self._given(headers)
        begun = self.begun(name, kind=SpanKind.SERVER, context=context, links=links)
        with begun as handle, self._entered(handle):
            yield handle

    @staticmethod
    @contextmanager
    def _entered(handle: Handle) -> Iterator[None]:
        token = _room.set([DETAILS])
        try:
            with bound(trace_id=trace.format_trace_id(handle.recorded.get_span_context().trace_id)):
                yield
        finally:
            _room.reset(token)

    @staticmethod
    def _has_room() -> bool:
        room = _room.get()
        if room is None:
            return True
        room[0] -= 1
        return room[0] >= 0

    def asks(self, method: str, host: str | None) -> trace.Span | None:
        """Begin the span of a request to another service, if it belongs to a trace.

        Where there are too many already, it is one that nobody records, neither here nor there.
        """
        around = trace.get_current_span().get_span_context()
        if not around.is_valid:
            return None
        if not self._has_room():
            return trace.NonRecordingSpan(trace.SpanContext(around.trace_id, around.span_id, is_remote=False))
        attributes = {"http.request.method": method, "server.address": host or ""}
        return self._tracer.start_span(method, None, SpanKind.CLIENT, attributes)

    def headers(self, recorded: trace.Span, url: str) -> dict[str, str]:
        """Return the headers of a request that continue a trace; none for what is not of this deployment."""
        if not url.startswith(self._inside):
            return {}
        parent = self._text(recorded)
        return {PARENT: parent, STATE: f"skasrc={self.proof(parent)}"}

    def current(self) -> str | None:
        """Return the current span as a text."""
        recorded = trace.get_current_span()
        return self._text(recorded) if recorded.get_span_context().is_valid else None

    def _text(self, recorded: trace.Span) -> str:
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, trace.set_span_in_context(recorded, Context()))
        return carrier[PARENT]

    def _given(self, headers: Mapping[str, str]) -> tuple[Context, list[Link]]:
        """Return the span that a request belongs to, and what it is linked to."""
        parent = headers.get(PARENT, "")
        told = self._propagator.extract({PARENT: parent}, Context())
        origin = trace.get_current_span(told).get_span_context()
        if not origin.is_valid:
            return Context(), []
        proof = _OURS.search(headers.get(STATE, ""))
        if self._key and proof is not None and hmac.compare_digest(proof[1], self.proof(parent)):
            return told, []
        return Context(), [Link(origin)]

    def proof(self, parent: str) -> str:
        """Return what shows that a ``traceparent`` is of this deployment."""
        return hmac.new(self._key, parent.encode(), hashlib.sha256).hexdigest()[:32]


class _Unrecorded:
    """A span of what belongs to no trace."""

    def set(self, name: str, value: Value) -> None:
        """Do nothing."""


UNRECORDED = _Unrecorded()
