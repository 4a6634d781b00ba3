"""Keeps the requests of one connection apart.

A proxy gives a connection that a service has kept to the next request, of anybody. While a part of the body before is
owing there, that request is taken for it. So a connection is kept only if the body was read to its end.
"""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

DRAINED = 64 << 10
DRAIN_SECONDS = 1.0
LINGER_SECONDS = 5.0


class RequestBoundaries:
    """ASGI middleware: answers ``Connection: close`` where it starts to answer before the end of the request's body.

    A small rest of the body is read first, so that not every refusal costs a connection. And a connection that is to be
    closed is read from for a while after the answer: one that is closed with unread data is reset, and the client may
    lose the answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap *app*."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            length = headers.get(b"content-length", b"0")
            if length != b"0" or b"transfer-encoding" in headers or b"upgrade" in headers:
                body = _Body(receive, send, headers)
                receive, send = body.receive, body.send
        await self._app(scope, receive, send)


class _Body:
    """The body of one request: how much of it was read, and what that means for the answer."""

    def __init__(self, receive: Receive, send: Send, headers: dict[bytes, bytes]) -> None:
        self._receive, self._send = receive, send
        length = headers.get(b"content-length", b"0")
        self._owing = int(length) if length.isdigit() else 0
        # Who waits to be asked for the body is not asked only to have it thrown away.
        self._asked = b"expect" not in headers
        # What follows a request for another protocol may be read in either.
        self._upgrade = b"upgrade" in headers
        self._kept: deque[Message] = deque()
        self._ended = self._closing = False

    async def receive(self) -> Message:
        return self._kept.popleft() if self._kept else await self._next()

    async def _next(self) -> Message:
        self._asked = True
        message = await self._receive()
        self._owing -= len(message.get("body", b""))
        self._ended = self._ended or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self._asked and self._owing <= DRAINED:
                self._kept.extend(await self._rest(DRAIN_SECONDS, DRAINED))
            if self._upgrade or not self._ended:
                self._closing = True
                headers = MutableHeaders(raw=list(message.get("headers", [])))
                headers["connection"] = "close"
                message = {**message, "headers": headers.raw}
        elif self._closing and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._rest(LINGER_SECONDS)
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _rest(self, seconds: float, most: int | None = None) -> list[Message]:
        """Read what is owing, at most so long and so much; without a limit nothing of it is kept."""
        kept: list[Message] = []
        read = 0
        try:
            async with asyncio.timeout(seconds):
                while not self._ended and (most is None or read <= most):
                    message = await self._next()
                    read += len(message.get("body", b""))
                    if most is not None:
                        kept.append(message)
        except TimeoutError:
            pass
        return kept
