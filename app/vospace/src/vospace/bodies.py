"""Bodies of requests while they arrive: small ones in memory, and of the others so many of each user."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import IO

from starlette.requests import Request

from vospace.models.errors import RequestTooLarge, TooManyRequests

SMALL = 64 << 10
"""Bytes of a body that counts for nothing."""


class Arrivals:
    """The larger bodies that are on their way to this process."""

    def __init__(self, most: int, spool: Callable[[], IO[bytes]]) -> None:
        """`most`: of one user; `spool` makes the files in which the largest wait."""
        self._most = most
        self._spool = spool
        self._coming: Counter[str | None] = Counter()

    @contextmanager
    def _place(self, user: str | None) -> Iterator[None]:
        if self._coming[user] >= self._most:
            raise TooManyRequests(
                f"{self._most} large requests of yours are on their way: wait for their end"
            )
        self._coming[user] += 1
        try:
            yield
        finally:
            self._coming[user] -= 1
            if not self._coming[user]:
                del self._coming[user]

    async def _chunks(self, request: Request, limit: int) -> AsyncIterator[bytes]:
        """The body of a request whose caller is known. Raises RequestTooLarge, TooManyRequests."""
        size = 0
        with ExitStack() as held:
            async for chunk in request.stream():
                if size <= SMALL < size + len(chunk):
                    held.enter_context(self._place(request.state.caller.username))
                size += len(chunk)
                if size > limit:
                    raise RequestTooLarge(f"limit: {limit}")
                yield chunk

    async def read(self, request: Request, limit: int) -> bytes:
        """A body of at most `limit` bytes."""
        return b"".join([chunk async for chunk in self._chunks(request, limit)])

    @asynccontextmanager
    async def spooled(self, request: Request, limit: int) -> AsyncIterator[Spooled]:
        """A body that waits in a file, if it is not small, until somebody has time for it."""
        body = Spooled(self._spool)
        try:
            async for chunk in self._chunks(request, limit):
                await body.write(chunk)
            yield body
        finally:
            body.close()


class Spooled:
    """A body that has arrived."""

    def __init__(self, spool: Callable[[], IO[bytes]]) -> None:
        self._spool = spool
        self._start = bytearray()
        self._file: IO[bytes] | None = None
        self.size = 0

    async def write(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self._file is None:
            self._start += chunk
            if self.size > SMALL:
                self._file = await asyncio.to_thread(self._spool)
                chunk, self._start = bytes(self._start), bytearray()
        if self._file is not None:
            await asyncio.to_thread(self._file.write, chunk)

    async def blocks(self) -> AsyncIterator[bytes]:
        """The body from its beginning."""
        if self._file is None:
            yield bytes(self._start)
            return
        await asyncio.to_thread(self._file.seek, 0)
        while block := await asyncio.to_thread(self._file.read, SMALL):
            yield block

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
