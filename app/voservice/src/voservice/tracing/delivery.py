"""Sends spans to a collector (OTLP over HTTP), behind the back of those whose spans they are."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import httpx
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from prometheus_client import Counter

MOST = 4096
"""Spans that wait for the collector; the next ones are dropped."""
BATCH = 512
INTERVAL = 1.0
"""Seconds over which a batch is gathered."""
TIMEOUT = 5.0
"""Seconds within which the collector is to answer."""
TRIES = 5
LONGEST_PAUSE = 10.0
PATIENCE = 1.0
"""Seconds for which the end of a process waits for the collector."""
PASSING = frozenset({408, 429, 500, 502, 503, 504})

DROPPED = Counter("trace_spans_dropped", "Spans that the collector of traces did not get")
SENT = Counter("trace_spans_sent", "Spans that the collector of traces has got")

logger = logging.getLogger(__name__)


class Delivery(SpanProcessor):
    """Takes spans that end, and sends them by a thread of its own, in batches.

    No caller waits for it: what does not fit into its queue is dropped and counted.
    """

    def __init__(self, endpoint: str, token: str = "") -> None:
        """Send to the collector whose base URL is *endpoint*, with *token* if there is one."""
        self._url = f"{endpoint.rstrip('/')}/v1/traces"
        self._headers = {"Content-Type": "application/x-protobuf"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._waiting: queue.Queue[ReadableSpan | None] = queue.Queue(MOST)
        self._stopping = threading.Event()
        self._healthy = True
        # A daemon: a collector that does not answer must not keep the process.
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Do nothing: a span is sent once it has ended."""

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span, or count it as dropped."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        try:
            self._waiting.put_nowait(span)
        except queue.Full:
            DROPPED.inc()

    def shutdown(self) -> None:
        """Send what is left, for `PATIENCE` at most."""
        self._stopping.set()
        # A full queue is enough to wake up for.
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(PATIENCE)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Return False: nobody needs to wait for the collector."""
        return False

    def _run(self) -> None:
        with httpx.Client(timeout=TIMEOUT, headers=self._headers, follow_redirects=False) as client:
            for batch in self._batches():
                try:
                    self._send(client, batch)
                except Exception:
                    # The thread outlives a span that cannot be encoded.
                    logger.exception("Traces cannot be sent")
                    DROPPED.inc(len(batch))

    def _batches(self) -> Iterator[list[ReadableSpan]]:
        """Yield what has ended, until nothing is left after `shutdown`."""
        while not (self._stopping.is_set() and self._waiting.empty()):
            batch: list[ReadableSpan] = []
            end: float | None = None
            while len(batch) < BATCH:
                patience = None if end is None else max(0.0, end - time.monotonic())
                try:
                    span = self._waiting.get(timeout=0 if self._stopping.is_set() else patience)
                except queue.Empty:
                    break
                if span is not None:
                    batch.append(span)
                end = end or time.monotonic() + INTERVAL
            if batch:
                yield batch

    def _send(self, client: httpx.Client, batch: list[ReadableSpan]) -> None:
        """Send a batch, again for a while if the collector is away; not while the process ends."""
        content = encode_spans(batch).SerializeToString()
        pause, problem = 1.0, ""
        for attempt in range(1, TRIES + 1):
            try:
                answer = client.post(self._url, content=content)
            except (httpx.HTTPError, OSError) as error:
                problem, passing = type(error).__name__, True
            else:
                if answer.is_success:
                    SENT.inc(len(batch))
                    self._tell(healthy=True)
                    return
                problem, passing = f"HTTP {answer.status_code}", answer.status_code in PASSING
            self._tell(healthy=False, problem=problem)
            if not passing or attempt == TRIES or self._stopping.wait(pause):
                break
            pause = min(2 * pause, LONGEST_PAUSE)
        DROPPED.inc(len(batch))

    def _tell(self, *, healthy: bool, problem: str = "") -> None:
        """Log when the collector goes away, and when it is back."""
        if healthy != self._healthy:
            self._healthy = healthy
            if healthy:
                logger.info("The collector takes traces again")
            else:
                logger.warning("The collector takes no traces", extra={"fields": {"error": problem}})
