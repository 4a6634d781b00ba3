"""Where fetched bytes go: a file being staged, or memory."""

from __future__ import annotations

import asyncio
import errno
import os
from mmap import mmap

from vospace.storage.system_calls import begin_write_out, bypass_cache
from vospace.transfers.digests import Digester
from vospace.transfers.errors import FetchFailed

BLOCK = 2 << 20
"""Bytes handed to worker threads at a time."""
WRITE_OUT = 8 << 20
"""Bytes after which the disk begins to work on what is in the page cache, while more arrive."""


def storage_failure(error: OSError) -> FetchFailed:
    """What a failed write means for a transfer."""
    if error.errno in (errno.EDQUOT, errno.ENOSPC, errno.EFBIG):
        return FetchFailed("QuotaExceeded", os.strerror(error.errno))
    return FetchFailed("InternalFault", f"writing failed: {error.strerror}", transient=True)


class FileSink:
    """Writes to a file descriptor in worker threads: one block is written by one thread and digested by another while
    the next arrives.

    Whole blocks go past the page cache where the file system has O_DIRECT: the digests have read them, the copy into
    the cache costs as much as the MD5, and an fsync then finds little to wait for. Their buffers are mapped since such
    a write wants them aligned to pages.
    """

    def __init__(self, descriptor: int) -> None:
        self._fd = descriptor
        self._digester = Digester()
        self._block = mmap(-1, BLOCK)
        self._other: mmap | None = None
        self._filled = 0
        self._pending: set[asyncio.Task[None]] = set()
        self._position = 0
        self._written_out = 0
        self._direct: bool | None = None
        self.length = 0

    @property
    def md5(self) -> str:
        return self._digester.md5

    @property
    def adler32(self) -> str:
        return self._digester.adler32

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        self.length += len(view)
        while view:
            part = view[: BLOCK - self._filled]
            self._block[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            view = view[len(part) :]
            if self._filled == BLOCK:
                await self._pass_on()

    async def _pass_on(self) -> None:
        """Let threads have the full block, and take the one that they are done with."""
        await self._settle()
        if self._direct is None:
            self._direct = bypass_cache(self._fd, True)
        full, self._block = self._block, self._other or mmap(-1, BLOCK)
        self._other, self._filled = full, 0
        view = memoryview(full)
        self._pending = {
            asyncio.create_task(asyncio.to_thread(self._write, view)),
            asyncio.create_task(asyncio.to_thread(self._digester.update_md5, view)),
        }

    async def flush(self) -> None:
        await self._settle()
        if self._filled:
            view = memoryview(self._block)[: self._filled]
            self._filled = 0
            await asyncio.to_thread(self._write_rest, view)

    async def restart(self) -> None:
        await self._settle()
        self._filled = 0
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

    def _write(self, block: memoryview) -> None:
        """Write a block, and digest it by Adler-32: the other thread has enough to do with the MD5."""
        self._digester.update_adler32(block)
        size = len(block)
        while block:
            try:
                block = block[os.write(self._fd, block) :]
            except OSError as error:
                if not self._direct or error.errno != errno.EINVAL:
                    raise storage_failure(error) from error
                self._leave_direct()  # a file system that promised it, or the rest of a block on a full disk
        self._position += size
        if not self._direct and self._position - self._written_out >= WRITE_OUT:
            begin_write_out(self._fd, self._written_out, self._position - self._written_out)
            self._written_out = self._position

    def _write_rest(self, rest: memoryview) -> None:
        """Write less than a block; what may follow is no longer at a block's start."""
        self._leave_direct()
        self._digester.update_md5(rest)
        self._write(rest)

    def _leave_direct(self) -> None:
        if self._direct:
            bypass_cache(self._fd, False)
        self._direct = False

    def _truncate(self) -> None:
        self._leave_direct()
        self._direct = None
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
