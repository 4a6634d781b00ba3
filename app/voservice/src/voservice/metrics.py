"""Prometheus metrics: what every service counts of its requests, and ``/metrics``, which tells it for all processes.

Several server processes count in files that they share, so that any of them can tell the sum; one alone counts in
memory. Labels have values from the code alone: what a client sends makes no new time series.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from operator import add
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector
from starlette.exceptions import HTTPException
from starlette.types import Scope

from voservice.proxy import PROVEN

PATH = "/metrics"
PATIENCE = 5
"""Seconds that each of a service's collectors may take."""
PERIOD = 0.25
"""Seconds after which what was counted is written at the latest."""
_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
OTHER = "other"
"""Method and route of requests that no route answers."""

Combination = TypeVar("Combination", bound=tuple[str, ...])
Collect = Callable[[], Awaitable[Iterable[Metric] | None]]
"""Returns what a service tells besides what it counted. Raises if something that the service needs does not answer."""

disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has types only for the commoner half
REQUESTS = Counter("http_requests", "Requests answered", ["method", "route", "status"])
SECONDS = Histogram(
    "http_request_duration_seconds",
    "From a request's first byte to its answer's last",
    ["method", "route"],
    buckets=(0.01, 0.05, 0.25, 1, 5, 30, 300),
)
RECEIVED = Counter("http_request_bytes", "Bytes of the bodies of requests", ["method", "route"])
SENT = Counter("http_response_bytes", "Bytes of the bodies of answers", ["method", "route"])
IN_FLIGHT = Gauge("http_requests_in_flight", "Requests that are being answered", multiprocess_mode="livesum")

logger = logging.getLogger(__name__)


class RequestCounts:
    """What this process counts of its requests, written to the metrics a few times a second.

    Written with each request it would take a tenth of the time of a small one, since the processes share files.
    """

    def __init__(self) -> None:
        """Count nothing yet."""
        self._in_flight = 0
        self._ended: dict[tuple[str, str, str], _Ended] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self) -> None:
        """Count a request that has arrived."""
        self._in_flight += 1
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            loop.call_later(PERIOD, self._tick)

    def end(self, route: tuple[str, str], status: int, seconds: float, received: int, sent: int) -> None:
        """Count one that was answered: by method and template of its route, and by the class of its status."""
        self._in_flight -= 1
        series = (*route, f"{status // 100}xx")
        found = self._ended.get(series)
        if found is None:
            found = self._ended[series] = _Ended()
        found.durations.append(seconds)
        found.received += received
        found.sent += sent

    def write(self) -> None:
        """Write what was counted since the last time."""
        ended, self._ended = self._ended, {}
        IN_FLIGHT.set(self._in_flight)
        for (method, route, status), found in ended.items():
            REQUESTS.labels(method, route, status).inc(len(found.durations))
            RECEIVED.labels(method, route).inc(found.received)
            SENT.labels(method, route).inc(found.sent)
            durations = SECONDS.labels(method, route)
            for seconds in found.durations:
                durations.observe(seconds)

    def _tick(self) -> None:
        loop = self._loop
        if loop is not None and (self._ended or self._in_flight):
            loop.call_later(PERIOD, self._tick)
        else:
            self._loop = None
        self.write()


@dataclass(slots=True)
class _Ended:
    """Requests of one series that were answered, and the bytes of their bodies."""

    durations: list[float] = field(default_factory=list)
    received: int = 0
    sent: int = 0


def route_of(scope: Scope, root: str) -> tuple[str, str]:
    """Return method and template of the route of a request that was answered; *root* is the service's own path."""
    route = scope.get("route")
    path = getattr(route, "path", None)
    if path is None:
        return OTHER, OTHER
    # A route of an application that is mounted below another knows only the rest of its path.
    mounted = scope.get("root_path", "").removeprefix(root)
    method = scope["method"]
    return method if method in (getattr(route, "methods", None) or ()) else OTHER, mounted + path


counts = RequestCounts()


def gauge(
    name: str, documentation: str, values: Mapping[Combination, float], labels: Sequence[str] = ()
) -> Metric:
    """Return a metric with a value for each combination of the values of *labels*."""
    family = GaugeMetricFamily(name, documentation, labels=labels)
    for combination, value in values.items():
        family.add_metric(combination, value)
    return family


@contextmanager
def shared(processes: int) -> Iterator[None]:
    """Let the server processes that are started in the block count together, if there are several."""
    if processes == 1:
        yield
        return
    with TemporaryDirectory(prefix="metrics-", ignore_cleanup_errors=True) as directory:
        os.environ[_DIRECTORY] = directory
        yield


def install(app: FastAPI) -> list[Collect]:
    """Serve ``/metrics``, for those who ask the service itself; return the list of its collectors, to be added to.

    To be called before routes that match any path.
    """
    collectors: list[Collect] = []

    @app.get(PATH, include_in_schema=False)
    async def metrics(request: Request) -> Response:
        if request.scope.get(PROVEN):
            # Metrics are for the inside of the network.
            raise HTTPException(404)
        told = await asyncio.gather(*map(_ask, collectors))
        counts.write()
        answers = float(None not in told)
        ready = gauge("service_ready", "Whether all that the service needs answers", {(): answers})
        families = [ready, *(family for families in told for family in families or ())]
        return Response(_text(families), media_type=CONTENT_TYPE_LATEST)

    return collectors


async def _ask(collect: Collect) -> list[Metric] | None:
    try:
        async with asyncio.timeout(PATIENCE):
            return list(await collect() or ())
    except Exception as error:  # any error is that of something the service needs
        logger.warning("not ready: %s: %s", type(error).__name__, str(error).partition("\n")[0])
        return None


def _text(families: Iterable[Metric]) -> bytes:
    """Return all metrics in Prometheus's text format: those counted by all processes, and *families*."""
    directory = os.environ.get(_DIRECTORY)
    registry = CollectorRegistry()
    registry.register(_Given(families))
    if directory is None:
        return generate_latest(registry) + generate_latest(REGISTRY)
    running = set()
    for file in Path(directory).glob("*.db"):
        process = file.stem.rpartition("_")[2]
        if Path("/proc", process).exists():
            running.add(process)
        else:
            # What it counted stays; what it had in flight is gone.
            mark_process_dead(int(process), directory)  # type: ignore[no-untyped-call]  # as above
    registry.register(_Processes(sorted(running)))
    MultiProcessCollector(registry, directory)  # type: ignore[no-untyped-call]  # as above
    return generate_latest(registry)


class _Given(Collector):
    """Metrics that are known already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class _Processes(Collector):
    """What processor time, memory and files the processes of a service take together."""

    def __init__(self, processes: Iterable[str]) -> None:
        self._processes = processes

    def collect(self) -> Iterable[Metric]:
        found: dict[str, Metric] = {}
        for process in self._processes:
            collector = ProcessCollector(pid=partial(str, process), registry=None)
            for family in collector.collect():
                combine = min if family.name == "process_start_time_seconds" else add
                before = found.get(family.name)
                if before is not None:
                    (mine,), (sample,) = before.samples, family.samples
                    family.samples = [sample._replace(value=combine(mine.value, sample.value))]
                found[family.name] = family
        return found.values()
