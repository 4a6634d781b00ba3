"""Requests by aiohttp, as spans: their headers continue the trace where they go to this deployment."""

from __future__ import annotations

from types import SimpleNamespace

import aiohttp

from voservice.tracing.recorder import Handle, Recorder


def following(recorder: Recorder) -> aiohttp.TraceConfig:
    """Return what makes spans of the requests of an aiohttp session, each until its answer begins."""

    async def begin(
        _session: aiohttp.ClientSession, request: SimpleNamespace, told: aiohttp.TraceRequestStartParams
    ) -> None:
        request.recorded = recorder.asks(told.method, told.url.host)
        if request.recorded is not None:
            told.headers.update(recorder.headers(request.recorded, str(told.url)))

    async def end(
        _session: aiohttp.ClientSession, request: SimpleNamespace, told: aiohttp.TraceRequestEndParams
    ) -> None:
        if request.recorded is not None:
            Handle(request.recorded).answered(told.response.status)
            request.recorded.end()

    async def fail(
        _session: aiohttp.ClientSession, request: SimpleNamespace, told: aiohttp.TraceRequestExceptionParams
    ) -> None:
        if request.recorded is not None:
            Handle(request.recorded).fail(type(told.exception).__name__)
            request.recorded.end()

    config = aiohttp.TraceConfig()
    config.on_request_start.append(begin)
    config.on_request_end.append(end)
    config.on_request_exception.append(fail)
    return config
