"""Bodies of requests while they arrive: small ones in memory, a limited number of larger ones per user."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import IO

from starlette.requests import Request

from vospace.models.errors import RequestTooLarge, TooManyRequests

SMALL = 64 << 10
"""Largest body, in bytes, that does not count towards the limit."""


class Arrivals:
    """The larger bodies that this process is receiving."""

    def __init__(self, most: int, spool: Callable[[], IO[bytes]]) -> None:
        """Accept up to `most` bodies per user; `spool` creates the files that buffer the largest."""
        self._most = most
        self._spool = spool
        self._coming: Counter[str | None] = Counter()

    @contextmanager
    def _place(self, user: str | None) -> Iterator[None]:
        if self._coming[user] >= self._most:
            raise TooManyRequests(
                f"{self._most} large requests of yours are on their way: wait until they are complete"
            )
        self._coming[user] += 1
        try:
            yield
        finally:
            self._coming[user] -= 1
            if not self._coming[user]:
                del self._coming[user]

    async def _chunks(self, request: Request, limit: int) -> AsyncIterator[bytes]:
        """Yield the body of a request whose caller is known. Raises RequestTooLarge, TooManyRequests."""
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
        """Return a body of at most `limit` bytes."""
        return b"".join([chunk async for chunk in self._chunks(request, limit)])

    @asynccontextmanager
    async def spooled(self, request: Request, limit: int) -> AsyncIterator[Spooled]:
        """Return a body that is buffered in a file, unless it is small, until it can be processed."""
        body = Spooled(self._spool)
        try:
            async for chunk in self._chunks(request, limit):
                await body.write(chunk)
            yield body
        finally:
            body.close()


class Spooled:
    """A body that has been received."""

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
        """Yield the body from its beginning."""
        if self._file is None:
            yield bytes(self._start)
            return
        await asyncio.to_thread(self._file.seek, 0)
        while block := await asyncio.to_thread(self._file.read, SMALL):
            yield block

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
