"""Prevents request smuggling between requests on one connection.

A proxy reuses a connection that the service keeps open for the next request, of any client. If a part of the previous
body has not arrived yet, that request is parsed as the missing part. So a connection is kept only if the whole body was
read.
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
    """ASGI middleware: sends ``Connection: close`` if a response starts before the end of the request's body.

    A small remainder of the body is drained first, so that not every rejection costs a connection. A connection that
    will be closed is still read for a while after the response: closing it with unread data would reset it, and the
    client might lose the response.
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
    """The body of one request: tracks how much was read, and closes the connection if some is missing."""

    def __init__(self, receive: Receive, send: Send, headers: dict[bytes, bytes]) -> None:
        self._receive, self._send = receive, send
        length = headers.get(b"content-length", b"0")
        self._outstanding = int(length) if length.isdigit() else 0
        # A client that waits for "100 Continue" is not asked for a body that would be discarded.
        self._asked = b"expect" not in headers
        # Data after an upgrade request could be parsed in either protocol.
        self._upgrade = b"upgrade" in headers
        self._kept: deque[Message] = deque()
        self._ended = self._closing = False

    async def receive(self) -> Message:
        return self._kept.popleft() if self._kept else await self._next()

    async def _next(self) -> Message:
        self._asked = True
        message = await self._receive()
        self._outstanding -= len(message.get("body", b""))
        self._ended = self._ended or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self._asked and self._outstanding <= DRAINED:
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
        """Read the rest of the body, for up to *seconds* and *most* bytes; without *most* discard it."""
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
