"""What every service tells Prometheus: in how many time series whatever a client sends, to whom, and of how many."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, StreamingResponse
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.types import ASGIApp, Receive, Scope, Send
from voservice import database_metrics
from voservice.app import service
from voservice.config import ServiceSettings
from voservice.metrics import gauge
from voservice.proxy import PROVEN
from voservice.server import serve

pytest_plugins = ["voservice.testing"]

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(text: str) -> Samples:
    """Values by name and labels; no series may be there twice."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, key
            found[key] = sample.value
    return found


def value(found: Samples, name: str, **labels: str) -> float:
    return found.get((name, tuple(sorted(labels.items()))), 0.0)


def create_app() -> FastAPI:
    app = service(
        ServiceSettings(),
        title="Probe",
        prefix="/probe",
        refuse=lambda status, reason: PlainTextResponse(reason, status),
    )

    @app.get("/probe/nodes/{path:path}")
    async def node(path: str) -> PlainTextResponse:
        return PlainTextResponse(path, 404 if path == "none" else 200)

    @app.put("/probe/nodes/{path:path}")
    async def write(request: Request) -> int:
        return len(await request.body())

    @app.get("/probe/stream")
    async def stream() -> StreamingResponse:
        async def blocks() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"12345"

        return StreamingResponse(blocks())

    @app.get("/probe/broken")
    async def broken() -> None:
        raise RuntimeError

    below = FastAPI(openapi_url=None)

    @below.get("/pages/{name}")
    async def page(name: str) -> str:
        return name

    app.mount("/probe/ui", below)
    return app


@pytest.fixture
def app() -> FastAPI:
    return create_app()


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, root_path="/outer")
    async with httpx.AsyncClient(transport=transport, base_url="http://probe/outer") as client:
        yield client


async def told(http: httpx.AsyncClient) -> Samples:
    answer = await http.get("/metrics")
    assert answer.status_code == 200
    return samples(answer.text)


async def test_requests_are_counted_by_their_routes(http: httpx.AsyncClient) -> None:
    before = await told(http)
    await http.get("/probe/nodes/home/ada/secret.txt")
    await http.get("/probe/nodes/none")
    await http.put("/probe/nodes/home/ada/secret.txt", content=b"1234567")
    await http.get("/probe/stream")
    await http.get("/probe/ui/pages/ada")
    assert (await http.get("/probe/broken")).status_code == 500
    after = await told(http)

    def more(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    node, total = "/probe/nodes/{path:path}", "http_requests_total"
    assert more(total, method="GET", route=node, status="2xx") == 1
    assert more(total, method="GET", route=node, status="4xx") == 1
    assert more(total, method="GET", route="/probe/broken", status="5xx") == 1
    assert more(total, method="GET", route="/probe/ui/pages/{name}", status="2xx") == 1
    assert more("http_request_bytes_total", method="PUT", route=node) == 7
    assert more("http_response_bytes_total", method="GET", route="/probe/stream") == 15
    assert more("http_request_duration_seconds_count", method="GET", route=node) == 2
    # The question itself.
    assert value(after, "http_requests_in_flight") == 1
    assert value(after, "service_ready") == 1
    text = (await http.get("/metrics")).text
    assert "secret" not in text
    assert "ada" not in text


async def test_clients_cannot_make_time_series(http: httpx.AsyncClient) -> None:
    async def ask(number: int) -> None:
        await http.request(
            "GET", f"/probe/nodes/{number}?a={number}", headers={"X-Request-ID": f"id-{number:08}"}
        )
        await http.request("GET", f"/{number}")
        await http.request("GET", f"/metrics{number}")
        await http.request("GET", f"/probe/ui/{number}")
        await http.request(f"VERB{number}", "/probe/nodes/x")
        await http.request(f"VERB{number}", f"/{number}")

    await ask(0)
    first = set(await told(http))
    for number in range(1, 20):
        await ask(number)
    assert set(await told(http)) == first
    labels = {label for _, pairs in first for label in pairs}
    assert ("method", "other") in labels
    assert ("route", "other") in labels


async def test_who_comes_by_the_proxy_is_told_nothing(app: FastAPI) -> None:
    def proven(proxied: ASGIApp) -> ASGIApp:
        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            scope[PROVEN] = True
            await proxied(scope, receive, send)

        return serve

    async with httpx.AsyncClient(transport=httpx.ASGITransport(proven(app)), base_url="http://probe") as http:
        answer = await http.get("/metrics")
    assert answer.status_code == 404
    assert "http_requests" not in answer.text


async def test_what_does_not_answer_is_told_with_all_else(app: FastAPI, http: httpx.AsyncClient) -> None:
    async def answering() -> list[Metric]:
        return [gauge("probe_things", "Things", {("a",): 3.0}, ["kind"])]

    async def failing() -> list[Metric]:
        raise ConnectionError("nobody there")

    app.state.collectors += [answering, failing]
    found = await told(http)
    assert value(found, "service_ready") == 0
    assert value(found, "probe_things", kind="a") == 3
    assert value(found, "process_resident_memory_bytes") > 0
    app.state.collectors.remove(failing)
    assert value(await told(http), "service_ready") == 1


async def test_a_database_is_told_of(database_url: str) -> None:
    engine = create_async_engine(database_url.replace("postgresql:", "postgresql+asyncpg:"))
    families = {family.name: family for family in await database_metrics.of(engine)() or ()}
    await engine.dispose()
    assert families["database_connections"].samples[0].value >= 1
    assert families["database_connections_most"].samples[0].value > 200
    assert families["database_size_bytes"].samples[0].value > 1 << 20
    assert {sample.labels["outcome"] for sample in families["database_transactions"].samples} == {
        "committed",
        "rolled_back",
    }


# Several processes.


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """URL of a service with three processes, whose temporary files are in *tmp_path*."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    begin = f"from test_metrics import main; main({port})"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", begin], env=environment)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()
    assert not list(tmp_path.iterdir()), "the figures of a service go with it"


def main(port: int) -> None:
    serve("test_metrics:create_app", "probe", ServiceSettings(workers=3), port)


def test_any_process_tells_of_all(server: str, tmp_path: Path) -> None:
    def ask(path: str) -> str:
        # By a connection of its own, which any of the processes may accept.
        return httpx.get(server + path, timeout=60).text

    def processes() -> set[int]:
        """Those that have counted something and still run."""
        counted = {int(file.stem.rpartition("_")[2]) for file in tmp_path.glob("*/counter_*.db")}
        return {process for process in counted if Path(f"/proc/{process}").exists()}

    def wait_until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def answers() -> bool:
        with suppress(httpx.TransportError):
            ask("/probe/nodes/x")
            return True
        return False

    def all_are_counted() -> bool:
        """Whether the processes have written what they counted, which they do a few times a second."""
        found = samples(ask("/metrics"))
        counted = value(found, "http_requests_total", **node)
        assert counted <= 21
        return counted == 21 and value(found, "http_requests_in_flight") == 1

    node = {"method": "GET", "route": "/probe/nodes/{path:path}", "status": "2xx"}
    wait_until(answers)
    for _ in range(20):
        ask("/probe/nodes/x")
    for _ in range(6):
        wait_until(all_are_counted)
        assert value(samples(ask("/metrics")), "process_resident_memory_bytes") > 3 << 20
    # One that is killed leaves what it counted, but nothing in flight.
    killed = processes().pop()
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: killed not in processes())
    wait_until(all_are_counted)
    assert not list(tmp_path.glob(f"*/gauge_live*_{killed}.db"))
