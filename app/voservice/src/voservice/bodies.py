"""Bodies of requests: none is longer than a service takes, and each comes at a minimum pace."""

from __future__ import annotations

import asyncio
from time import monotonic

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimits:
    """Ends requests whose body is dribbled or too long. Only the time counts in which the client is waited for."""

    def __init__(self, app: ASGIApp, patience: float, pace: int, largest: int | None = None) -> None:
        """Wrap *app*: each *patience* seconds must bring *pace* bytes for each of them, *largest* bytes at the most."""
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
        # Of this round of the client's time.
        self._waited = 0.0
        self._brought = 0

    async def __call__(self) -> Message:
        """The next part; 408 if there is too little of it, 413 if there is too much (RFC 9110 section 15.5)."""
        if self._whole:  # what is waited for now is the client's leaving
            return await self._receive()
        begin = monotonic()
        left = self._patience - self._waited
        if self._brought >= self._least:
            left += self._patience  # until the end of the next round
        try:
            async with asyncio.timeout(left):
                message = await self._receive()
        except TimeoutError:
            told = f"the body brings less than {self._least:g} bytes in {self._patience:g} s"
            raise HTTPException(408, told, {"Connection": "close"}) from None
        self._waited += monotonic() - begin
        if self._waited >= self._patience:
            self._waited -= self._patience
            self._brought = 0
        size = len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        self._brought += size
        self._length += size
        if self._largest is not None and self._length > self._largest:
            told = f"the body is larger than {self._largest} bytes"
            raise HTTPException(413, told, {"Connection": "close"})
        return message
