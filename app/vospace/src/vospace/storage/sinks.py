"""Sinks of received bytes: a file being staged, or memory."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from mmap import mmap
from typing import ClassVar

from voservice.digests import ADLER32, MD5, Digester

from vospace.models.errors import QuotaExceeded, TransferFailed
from vospace.storage.system_calls import begin_write_out, bypass_cache
from vospace.storage.threads import in_thread, uninterrupted

BLOCK = 1 << 20
"""Bytes handed to worker threads at a time."""
LARGE_BLOCK = 4 << 20
"""Bytes for the first few large files: waking a thread is expensive on virtual machines."""
LARGE_FILES = 8
"""Number of files of this process that use large blocks at once."""
BLOCKS = 3
"""Maximum blocks of one file in memory: one being filled, the others in the threads."""
ADOPTED = 256 << 20
"""Bytes of a file from an earlier process that are read and digested at a time."""
WRITE_OUT = 8 << 20
"""Bytes after which write-out of the page cache starts, while more arrive."""
logger = logging.getLogger(__name__)


def storage_failure(error: OSError) -> TransferFailed:
    """Return the fault for a failed write."""
    if error.errno in (errno.EDQUOT, errno.ENOSPC, errno.EFBIG):
        return TransferFailed("QuotaExceeded", os.strerror(error.errno), status=QuotaExceeded.status)
    logger.error("writing a file failed: %s", error)
    return TransferFailed("InternalFault", f"writing failed: {error.strerror}", transient=True)


class FileSink:
    """Writes to a file descriptor with two threads of its own: one writes a block and the other digests it, while the
    next ones arrive. Each processes the blocks in order, so neither waits for the other or for the event loop.

    Whole blocks bypass the page cache if the file system supports O_DIRECT: they are not read again, copying them into
    the cache costs as much as the MD5, and a later fsync has little left to write. Their buffers are mapped memory,
    since O_DIRECT requires alignment to pages.
    """

    _large_files: ClassVar[int] = 0

    def __init__(self, descriptor: int, algorithms: Iterable[str] = ()) -> None:
        """`algorithms`: digests to compute besides MD5 and Adler-32."""
        self._fd = descriptor
        self._algorithms = frozenset(algorithms) - {MD5, ADLER32}
        self._digester = Digester(self._algorithms)
        self._size = BLOCK
        self._block = mmap(-1, BLOCK)
        self._filled = 0
        self._threads: tuple[Executor, ...] = ()
        self._given: deque[tuple[mmap, list[asyncio.Future[None]]]] = deque()
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

    def digest(self, algorithm: str) -> bytes:
        return self._digester.value(algorithm)

    async def adopt(self) -> None:
        """Continue behind the whole blocks that an empty sink's file has, after digesting them."""

        size = os.fstat(self._fd).st_size // BLOCK * BLOCK

        def cut() -> None:
            os.ftruncate(self._fd, size)
            os.lseek(self._fd, 0, os.SEEK_SET)

        def read(length: int) -> None:
            block = bytearray(BLOCK)
            for _ in range(length // BLOCK):
                if os.readv(self._fd, [block]) != BLOCK:
                    raise storage_failure(OSError(errno.EIO, os.strerror(errno.EIO)))
                self._digester.update(block)

        await in_thread(cut)
        while self.length < size:
            # In parts, since none of them is interrupted.
            part = min(ADOPTED, size - self.length)
            await in_thread(read, part)
            self.length += part
        self._position = self._written_out = size

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        self.length += len(view)
        while view:
            part = view[: len(self._block) - self._filled]
            self._block[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            view = view[len(part) :]
            if self._filled == len(self._block):
                await self._pass_on()

    async def _pass_on(self) -> None:
        """Pass the full block to the threads, and take a finished one."""
        if self._direct is None:
            self._direct = bypass_cache(self._fd, True)
        if not self._threads:
            self._threads = (ThreadPoolExecutor(1), ThreadPoolExecutor(1))
            if FileSink._large_files < LARGE_FILES:
                FileSink._large_files += 1
                self._size = LARGE_BLOCK
        loop = asyncio.get_running_loop()
        view = memoryview(self._block)
        work = zip(self._threads, (self._digester.update_hashes, self._write), strict=True)
        self._given.append((self._block, [loop.run_in_executor(thread, act, view) for thread, act in work]))
        self._filled = 0
        block = await self._take_back() if len(self._given) == BLOCKS else None
        self._block = block if block and len(block) == self._size else mmap(-1, self._size)

    async def _take_back(self) -> mmap:
        """Return the oldest block once the threads have finished with it."""
        block, pending = self._given[0]
        await asyncio.wait(pending)  # if cancelled here, close() takes it
        self._given.popleft()
        for future in pending:
            future.result()
        return block

    async def flush(self) -> None:
        while self._given:
            await self._take_back()
        if self._filled:
            view = memoryview(self._block)[: self._filled]
            self._filled = 0
            await in_thread(self._write_rest, view)

    async def restart(self) -> None:
        await self._abandon()
        self._filled = 0
        self._digester = Digester(self._algorithms)
        self.length = 0
        await in_thread(self._truncate)

    async def close(self) -> None:
        """Wait for running writes; call it before the descriptor is closed."""
        try:
            await self._abandon()
        finally:
            for thread in self._threads:
                thread.shutdown(wait=False)
            self._threads = ()
            if self._size == LARGE_BLOCK:
                FileSink._large_files -= 1
                self._size = BLOCK

    async def _abandon(self) -> None:
        """Wait for the threads and ignore their results."""
        if pending := [future for _, futures in self._given for future in futures]:
            done, _ = await uninterrupted(lambda: asyncio.wait(pending))
            for future in done:
                future.exception()
        self._given.clear()

    def _write(self, block: memoryview) -> None:
        """Write a block and compute its Adler-32; the other thread is busy with the other digests."""
        self._digester.update_adler32(block)
        size = len(block)
        while block:
            try:
                block = block[os.write(self._fd, block) :]
            except OSError as error:
                if not self._direct or error.errno != errno.EINVAL:
                    raise storage_failure(error) from error
                self._leave_direct()  # O_DIRECT fails although announced, or the rest of a block on a full disk
        self._position += size
        if not self._direct and self._position - self._written_out >= WRITE_OUT:
            begin_write_out(self._fd, self._written_out, self._position - self._written_out)
            self._written_out = self._position

    def _write_rest(self, rest: memoryview) -> None:
        """Write less than a block; later writes are no longer aligned to blocks."""
        self._leave_direct()
        self._digester.update_hashes(rest)
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
    """Keeps a small file in memory; digests are computed on request."""

    def __init__(self, algorithms: Iterable[str] = ()) -> None:
        """`algorithms`: digests to compute besides MD5 and Adler-32."""
        self.data = bytearray()
        self._algorithms = frozenset(algorithms) - {MD5, ADLER32}
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

    def digest(self, algorithm: str) -> bytes:
        return self._digest().value(algorithm)

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
            self._digester = Digester(self._algorithms)
            self._digester.update(self.data)
        return self._digester
