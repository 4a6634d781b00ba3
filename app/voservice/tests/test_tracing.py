"""Traces: what a collector gets of them, whose they continue, what is in none; nobody waits for a collector."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import aiohttp
import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from prometheus_client import REGISTRY
from voservice import tracing
from voservice.app import service
from voservice.config import ServiceSettings
from voservice.logging import field
from voservice.testing_traces import Collector, collecting
from voservice.tracing import delivery, recorder

KEY = "the deployment's own"
STRANGER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    yield
    tracing.close()


def settings(collector: Collector | str, **more: Any) -> ServiceSettings:
    url = collector if isinstance(collector, str) else collector.url
    return ServiceSettings(traces_endpoint=url, traces_key=KEY, public_url="http://127.0.0.1", **more)


def app_of(known: ServiceSettings) -> FastAPI:
    app = service(
        known, title="Probe", refuse=lambda status, why: PlainTextResponse(why, status), quiet=("/ok",)
    )

    @app.get("/nodes/{path:path}")
    async def node(path: str) -> dict[str, str | None]:
        if path == "broken":
            raise ValueError("Bearer secret")
        return {"trace": field("trace_id"), "context": tracing.current()}

    @app.get("/ok")
    async def ok() -> None:
        return None

    return app


async def ask(app: FastAPI, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://probe") as client:
        return await client.get(path, headers=headers)


def ours(context: str) -> dict[str, str]:
    """Return the headers by which a service of the deployment continues a trace."""
    tracing.configure("other", settings("http://127.0.0.1:1"))
    made = tracing.recording()
    assert made is not None
    proof = made.proof(context)
    tracing.close()
    return {"traceparent": context, "tracestate": f"others=1,skasrc={proof}"}


def is_sampled(context: str) -> bool:
    return bool(int(context[-2:], 16) & 1)


async def test_a_request_is_a_span_named_after_its_route(collector: Collector) -> None:
    known = settings(collector)
    tracing.configure("probe", known)
    app = app_of(known)
    told = (await ask(app, "/nodes/a/secret?token=secret", {"Authorization": "Bearer secret"})).json()
    await ask(app, "/ok")
    await ask(app, "/nodes/broken")
    await ask(app, "/nowhere/secret")
    tracing.close()
    fine, broken, none = collector.spans()
    assert (fine.name, fine.service, fine.kind) == ("GET /nodes/{path:path}", "probe", "SERVER")
    assert told["trace"] == fine.trace
    assert told["context"].startswith(f"00-{fine.trace}-{fine.id}-")
    assert is_sampled(told["context"])
    assert fine.attributes["http.response.status_code"] == 200
    assert (broken.attributes["error.type"], broken.failed) == ("ValueError", True)
    assert none.name == "HTTP"
    assert "secret" not in str(collector.bodies)


async def test_traces_of_the_deployment_are_continued_and_others_linked(collector: Collector) -> None:
    known = settings(collector)
    headers = ours(STRANGER)
    tracing.configure("probe", known)
    app = app_of(known)
    await ask(app, "/nodes/ours", headers)
    await ask(app, "/nodes/strange", {"traceparent": STRANGER})
    await ask(app, "/nodes/forged", headers | {"traceparent": STRANGER.replace("b7ad", "b7ae")})
    await ask(app, "/nodes/unreadable", {"traceparent": "00-x"})
    tracing.close()
    continued, *others = collector.spans()
    trace, parent = STRANGER.split("-")[1:3]
    assert (continued.trace, continued.parent, continued.links) == (trace, parent, [])
    assert all(span.trace != trace and not span.parent for span in others)
    assert [span.links for span in others] == [[trace], [trace], []]


async def test_without_the_secret_nobody_is_believed(collector: Collector) -> None:
    known = ServiceSettings(traces_endpoint=collector.url)
    tracing.configure("probe", known)
    empty = tracing.recording()
    assert empty is not None
    await ask(
        app_of(known), "/nodes/x", {"traceparent": STRANGER, "tracestate": f"skasrc={empty.proof(STRANGER)}"}
    )
    tracing.close()
    (span,) = collector.spans()
    assert span.trace not in STRANGER


async def test_strangers_do_not_decide_what_is_sampled(collector: Collector) -> None:
    known = settings(collector, traces_ratio=0)
    tracing.configure("probe", known)
    told = (await ask(app_of(known), "/nodes/x", {"traceparent": STRANGER})).json()
    tracing.close()
    assert not is_sampled(told["context"])
    assert collector.spans() == []


async def test_requests_carry_the_trace_within_the_deployment_alone(collector: Collector) -> None:
    inside, outside = collector.url, collector.url.replace("127.0.0.1", "localhost")
    tracing.configure("probe", settings(collector).model_copy(update={"public_url": inside}))
    async with (
        tracing.client() as client,
        aiohttp.ClientSession(trace_configs=tracing.followed()) as session,
    ):
        await client.get(f"{inside}/before")
        with tracing.resumed("work", None):
            for base in (inside, outside):
                await client.get(f"{base}/httpx?signature=secret")
                async with session.get(f"{base}/aiohttp?signature=secret") as answer:
                    assert answer.status == 200
            with pytest.raises(aiohttp.ClientError):
                await session.get("http://127.0.0.1:1/")
            with pytest.raises(httpx.ConnectError):
                await client.get("http://127.0.0.1:1/")
    tracing.close()
    *asked, failed, failed_too, work = collector.spans()
    assert work.name == "work"
    assert {span.parent for span in asked} == {work.id}
    assert [span.attributes["server.address"] for span in asked] == ["127.0.0.1"] * 2 + ["localhost"] * 2
    assert failed.failed
    assert failed_too.attributes["error.type"] == "ConnectError"
    assert len(collector.gets) == 5
    for path, headers in collector.gets:
        host = headers["Host"].partition(":")[0]
        assert ("traceparent" in headers) == (host == "127.0.0.1" and "before" not in path)
    assert "secret" not in str(collector.bodies)


def test_work_goes_on_in_the_trace_of_whoever_asked_for_it(collector: Collector) -> None:
    tracing.configure("asks", settings(collector))
    with tracing.resumed("request", None) as request:
        context = tracing.current()
        with tracing.sent("send", context):
            message = tracing.current()
        request.set("task", "1")
    tracing.close()
    tracing.configure("works", settings(collector))
    with tracing.received("receive", message):
        pass
    with pytest.raises(KeyError), tracing.resumed("work", context), tracing.span("step"):
        raise KeyError("secret")
    tracing.close()
    by = {span.name: span for span in collector.spans()}
    assert len({span.trace for span in by.values()}) == 1
    parents = {name: span.parent for name, span in by.items()}
    assert parents == {
        "request": "",
        "send": by["request"].id,
        "receive": by["send"].id,
        "work": by["request"].id,
        "step": by["work"].id,
    }
    assert (by["send"].kind, by["receive"].kind) == ("PRODUCER", "CONSUMER")
    assert by["work"].failed
    assert "secret" not in str(collector.bodies)


def test_of_many_details_the_first_are_told(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "DETAILS", 3)
    tracing.configure("probe", settings(collector))
    made = tracing.recording()
    assert made is not None
    with tracing.resumed("work", None):
        for _ in range(5):
            with tracing.detail("fetch") as span:
                span.set("bytes", 1)
        asked = made.asks("GET", "host")
        assert asked is not None
        # Others do not record what belongs to it either.
        assert not is_sampled(made.headers(asked, "http://127.0.0.1/x")["traceparent"])
        with tracing.span("commit"):
            pass
    tracing.close()
    assert [span.name for span in collector.spans()] == ["fetch"] * 3 + ["commit", "work"]


def test_the_collector_gets_the_token(collector: Collector) -> None:
    tracing.configure("probe", settings(collector, traces_token="a token"))
    with tracing.resumed("work", None):
        pass
    tracing.close()
    assert collector.headers[0]["Authorization"] == "Bearer a token"


def test_nobody_waits_for_a_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "MOST", 10)
    heard, silent = threading.Event(), threading.Event()

    class Mute(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.set()
            silent.wait(30)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Mute)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    before = value("trace_spans_dropped_total")
    tracing.configure("probe", settings(f"http://127.0.0.1:{server.server_port}"))
    with tracing.resumed("first", None):
        pass
    assert heard.wait(20)
    for _ in range(30):
        with tracing.resumed("work", None):
            pass
    assert value("trace_spans_dropped_total") == before + 20
    monkeypatch.setattr(delivery, "PATIENCE", 0.01)
    tracing.close()
    silent.set()
    server.shutdown()
    server.server_close()


def value(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


def test_what_a_collector_misses_it_gets_when_it_is_back(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    collector.answers = [503, 400]
    caplog.set_level(logging.INFO)
    tracing.configure("probe", settings(collector))
    with tracing.resumed("late", None):
        pass
    wait(lambda: not collector.answers)
    with tracing.resumed("next", None):
        pass
    tracing.close()
    assert [span.name for span in collector.spans()] == ["late", "late", "next"]
    assert "takes no traces" in caplog.text
    assert "again" in caplog.text


def wait(condition: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_without_an_endpoint_there_is_nothing() -> None:
    tracing.configure("probe", ServiceSettings())
    assert tracing.followed() is None
    assert type(tracing.client()) is httpx.AsyncClient
    assert tracing.current() is None
    nothing = tracing.span("x")
    assert nothing is tracing.resumed("x", STRANGER) is tracing.detail("x") is tracing.sent("x", STRANGER)
    with nothing as span:
        span.set("x", 1)
    assert "RequestSpans" not in str(app_of(ServiceSettings()).user_middleware)
    names = "voservice.app, voservice.storage_elements, voservice.server"
    program = (
        f"import sys, {names}; print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
