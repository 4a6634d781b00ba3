"""Where fetched bytes go: a file being staged, or memory."""

from __future__ import annotations

import asyncio
import errno
import os

from vospace.storage.system_calls import begin_write_out
from vospace.transfers.digests import Digester
from vospace.transfers.errors import FetchFailed

BLOCK = 1 << 20
"""Bytes handed to a worker thread at a time."""
WRITE_OUT = 8 << 20
"""Bytes after which the disk begins to work, while more arrive."""


def storage_failure(error: OSError) -> FetchFailed:
    """What a failed write means for a transfer."""
    if error.errno in (errno.EDQUOT, errno.ENOSPC, errno.EFBIG):
        return FetchFailed("QuotaExceeded", os.strerror(error.errno))
    return FetchFailed("InternalFault", f"writing failed: {error.strerror}", transient=True)


class FileSink:
    """Writes to a file descriptor in worker threads: one block is written by one thread and digested by another while
    the next arrives."""

    def __init__(self, descriptor: int) -> None:
        self._fd = descriptor
        self._digester = Digester()
        self._buffer = bytearray()
        self._pending: set[asyncio.Task[None]] = set()
        self._position = 0
        self._written_out = 0
        self.length = 0

    @property
    def md5(self) -> str:
        return self._digester.md5

    @property
    def adler32(self) -> str:
        return self._digester.adler32

    async def write(self, data: bytes) -> None:
        self._buffer += data
        self.length += len(data)
        if len(self._buffer) >= BLOCK:
            await self._settle()
            block, self._buffer = self._buffer, bytearray()
            self._pending = {
                asyncio.create_task(asyncio.to_thread(self._write, block)),
                asyncio.create_task(asyncio.to_thread(self._digester.update, block)),
            }

    async def flush(self) -> None:
        await self._settle()
        if self._buffer:
            block, self._buffer = self._buffer, bytearray()
            await asyncio.to_thread(self._write, block)
            self._digester.update(block)

    async def restart(self) -> None:
        await self._settle()
        self._buffer.clear()
        self._digester = Digester()
        self.length = 0
        await asyncio.to_thread(self._truncate)

    async def close(self) -> None:
        """Let a write that is under way end; call it before the descriptor is closed."""
        pending, self._pending = self._pending, set()
        if pending:
            await asyncio.wait(pending)

    async def _settle(self) -> None:
        if self._pending:
            await asyncio.wait(self._pending)  # cancelled here, they are left for close()
            pending, self._pending = self._pending, set()
            for task in pending:
                task.result()

    def _write(self, block: bytearray) -> None:
        view = memoryview(block)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise storage_failure(error) from error
        self._position += len(block)
        if self._position - self._written_out >= WRITE_OUT:
            begin_write_out(self._fd, self._written_out, self._position - self._written_out)
            self._written_out = self._position

    def _truncate(self) -> None:
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._position = self._written_out = 0


class MemorySink:
    """Keeps a small file in memory; it is digested when asked for."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._digester: Digester | None = None

    @property
    def length(self) -> int:
        return len(self.data)

    @property
    def md5(self) -> str:
        return self._digest().md5

    @property
    def adler32(self) -> str:
        return self._digest().adler32

    async def write(self, data: bytes) -> None:
        self.data += data
        self._digester = None

    async def flush(self) -> None:
        return

    async def restart(self) -> None:
        self.data.clear()
        self._digester = None

    def _digest(self) -> Digester:
        if self._digester is None:
            self._digester = Digester()
            self._digester.update(self.data)
        return self._digester
