"""Requests that a service answers, as spans."""

from __future__ import annotations

from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from voservice import tracing
from voservice.metrics import OTHER, route_of
from voservice.tracing.recorder import PARENT, STATE, Recorder


class RequestSpans:
    """ASGI middleware: makes a span of each request, named after its method and the template of its route."""

    def __init__(self, app: ASGIApp, recorder: Recorder, quiet: Collection[str] = ()) -> None:
        """Wrap *app*; requests for the paths *quiet*, health checks and the like, are no spans."""
        self._app = app
        self._recorder = recorder
        self._quiet = frozenset(quiet)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._ending(send))
            return
        root = scope.get("root_path", "")
        if scope["type"] != "http" or scope["path"].removeprefix(root) in self._quiet:
            await self._app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in (PARENT.encode(), STATE.encode())
        }
        with self._recorder.served("HTTP", headers) as span:

            async def give(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        span.fail(str(message["status"]))
                await send(message)

            try:
                await self._app(scope, receive, give)
            finally:
                method, route = route_of(scope, root)
                if route != OTHER:
                    span.recorded.update_name(f"{method} {route}")
                    span.set("http.route", route)
                span.set("http.request.method", method if method != OTHER else "_OTHER")
                if request_id := scope.get("state", {}).get("request_id"):
                    span.set("request_id", request_id)

    @staticmethod
    def _ending(send: Send) -> Send:
        """Have spans sent before the server hears that the application has ended."""

        async def give(message: Message) -> None:
            if message["type"] == "lifespan.shutdown.complete":
                tracing.close()
            await send(message)

        return give
