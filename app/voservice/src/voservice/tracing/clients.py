"""Requests by httpx, as spans: their headers continue the trace where they go to this deployment."""

from __future__ import annotations

from typing import Any

import httpx

from voservice.tracing.recorder import Handle, Recorder


class TracedClient(httpx.AsyncClient):
    """A client of httpx whose requests are spans."""

    def __init__(self, recorder: Recorder, **options: Any) -> None:
        """Take the options of `httpx.AsyncClient`."""
        super().__init__(**options)
        self._recorder = recorder

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Send a request."""
        recorded = self._recorder.asks(request.method, request.url.host)
        if recorded is None:
            return await super().send(request, **options)
        request.headers.update(self._recorder.headers(recorded, str(request.url)))
        try:
            response = await super().send(request, **options)
        except Exception as error:
            Handle(recorded).fail(type(error).__name__)
            raise
        else:
            Handle(recorded).answered(response.status_code)
            return response
        finally:
            recorded.end()
