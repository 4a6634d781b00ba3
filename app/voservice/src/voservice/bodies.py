"""Limits on request bodies: a maximum size and a minimum rate."""

from __future__ import annotations

import asyncio
from time import monotonic

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimits:
    """Ends requests whose body is too slow or too long. Only time spent waiting for the client counts."""

    def __init__(self, app: ASGIApp, patience: float, pace: int, largest: int | None = None) -> None:
        """Wrap *app*: require *pace* bytes per second over each *patience* seconds, and *largest* bytes at most."""
        self._app = app
        self._patience = patience
        self._least = patience * pace
        self._largest = largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            receive = _Body(receive, self._patience, self._least, self._largest)
        await self._app(scope, receive, send)


class _Body:
    """The body of one request as it arrives."""

    def __init__(self, receive: Receive, patience: float, least: float, largest: int | None) -> None:
        self._receive = receive
        self._patience = patience
        self._least = least
        self._largest = largest
        self._length = 0
        self._whole = False
        # Seconds and bytes of the current measuring period.
        self._waited = 0.0
        self._brought = 0

    async def __call__(self) -> Message:
        """Return the next part; 408 if the body is too slow, 413 if it is too long (RFC 9110 section 15.5)."""
        if self._whole:  # only the disconnect is awaited now
            return await self._receive()
        begin = monotonic()
        left = self._patience - self._waited
        if self._brought >= self._least:
            left += self._patience  # until the end of the next period
        try:
            async with asyncio.timeout(left):
                message = await self._receive()
        except TimeoutError:
            raise self._too_slow() from None
        self._waited += monotonic() - begin
        if self._waited >= self._patience:
            if self._brought < self._least:
                # It arrived with the end of the period, before the timeout was noticed.
                raise self._too_slow()
            self._waited -= self._patience
            self._brought = 0
        size = len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        self._brought += size
        self._length += size
        if self._largest is not None and self._length > self._largest:
            detail = f"the body is larger than {self._largest} bytes"
            raise HTTPException(413, detail, {"Connection": "close"})
        return message

    def _too_slow(self) -> HTTPException:
        detail = f"received less than {self._least:g} bytes of the body in {self._patience:g} s"
        return HTTPException(408, detail, {"Connection": "close"})
