"""Each request's id, its line in the log, and what is counted of it."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from voservice import metrics
from voservice.logging import LOGGED, bound

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{8,128}")


class AccessLog:
    """ASGI middleware: gives each request an id, counts it, and logs its outcome in one line."""

    def __init__(self, app: ASGIApp, quiet: Collection[str] = ()) -> None:
        """Wrap *app*; successful requests for the paths in *quiet* (health checks) are not logged."""
        self._app = app
        self._quiet = frozenset(quiet)
        self._logger = logging.getLogger("access")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, root = time.perf_counter(), scope.get("root_path", "")
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status, received, sent = 500, 0, 0

        async def take() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def give(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            else:
                sent += len(message.get("body", b""))
            await send(message)

        metrics.counts.begin()
        with bound(request_id=request_id):
            try:
                await self._app(scope, take, give)
            except Exception as error:
                # Logged here, where the request is known; the server sends the response.
                self._logger.exception("unexpected error")
                error.add_note(LOGGED)
                raise
            finally:
                seconds = time.perf_counter() - begin
                metrics.counts.end(metrics.route_of(scope, root), status, seconds, received, sent)
                path = scope["path"].removeprefix(root)
                if status >= 400 or path not in self._quiet:
                    self._log(scope["method"], path, status, seconds)

    def _log(self, method: str, path: str, status: int, seconds: float) -> None:
        if not self._logger.isEnabledFor(logging.INFO):
            return
        milliseconds = round(seconds * 1000, 1)
        fields = {"method": method, "path": path, "status": status, "milliseconds": milliseconds}
        # Made here, since the logger would look for the line of code that calls it.
        made = self._logger.makeRecord(
            self._logger.name, logging.INFO, __file__, 0, "request", (), None, extra={"fields": fields}
        )
        self._logger.handle(made)
