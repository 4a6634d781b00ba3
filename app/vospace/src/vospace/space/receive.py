"""Receive the bytes of a data node: every file enters the space through this module."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Self

from vospace_client.terms import ADLER32, ENCODING, MD5, TYPE

from vospace.models.errors import InvalidArgument
from vospace.space.write import Upload
from vospace.storage.sinks import FileSink, MemorySink, storage_failure
from vospace.storage.threads import in_thread

KEEP_FROM = 64 << 20
"""Bytes that a file has before it is worth keeping."""


class Receiver:
    """Receives the bytes of one data node.

    `open` creates the file. Without it, up to `buffer` bytes are kept in memory, and the file is created when more
    arrive, or by `stage`. `stage` makes the bytes durable, with their properties; the node appears when its `Upload` is
    placed. Use it as an asynchronous context manager, or `close` it in any case.
    """

    def __init__(
        self,
        begin: Callable[[], Upload],
        *,
        buffer: int = 0,
        algorithms: Iterable[str] = (),
        key: str | None = None,
    ) -> None:
        """`begin` begins the upload, in a thread. `algorithms`: names of digests besides MD5 and Adler-32. With a
        *key*, a large file is kept for the process that continues if this one does not, which `remember` is for."""
        self._begin = begin
        self.key = key
        self._remembered: bytes | None = None
        self._kept = False
        self._buffer = buffer
        self._algorithms = algorithms
        self._sink: MemorySink | FileSink = MemorySink(algorithms)
        self._upload: Upload | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # What an earlier process left, and what this one leaves.

    @property
    def note(self) -> bytes | None:
        return None if self._upload is None else self._upload.note

    async def adopt(self) -> None:
        assert isinstance(self._sink, FileSink)
        await self._sink.adopt()

    def remember(self, note: bytes | None) -> None:
        self._remembered, self._kept = note, False

    async def _keep(self) -> None:
        """Give the file its note once it is worth that."""
        upload, note = self._upload, self._remembered
        if self._kept or self.key is None or note is None or upload is None or self.length < KEEP_FROM:
            return
        self._kept = True
        await in_thread(upload.keep, self.key, note)

    # What is received, as a fetcher's `Sink`.

    @property
    def length(self) -> int:
        return self._sink.length

    @property
    def md5(self) -> str:
        return self._sink.md5

    @property
    def adler32(self) -> str:
        return self._sink.adler32

    def digest(self, algorithm: str) -> bytes:
        return self._sink.digest(algorithm)

    @property
    def buffered(self) -> int:
        """Bytes kept in memory."""
        return self._sink.length if isinstance(self._sink, MemorySink) else 0

    async def write(self, data: bytes) -> None:
        await self._sink.write(data)
        if isinstance(self._sink, MemorySink) and self._sink.length > self._buffer:
            await self.open()
        await self._keep()

    async def flush(self) -> None:
        await self._sink.flush()

    async def restart(self) -> None:
        await self._sink.restart()
        self.remember(None)
        if self._upload is not None:
            await in_thread(self._upload.forget_note)

    # The file.

    async def open(self) -> tuple[Upload, FileSink]:
        """Create the file from the bytes in memory; return its upload and the sink for further bytes. Raises Faults."""
        held = bytes(self._sink.data) if isinstance(self._sink, MemorySink) else b""

        def begin() -> Upload:
            self._upload = upload = self._begin()
            return upload

        upload = await in_thread(begin)
        self._sink = sink = FileSink(upload.descriptor, self._algorithms)
        if held:
            await sink.write(held)
        return upload, sink

    async def receive(self, chunks: AsyncIterator[bytes], announced: int | None) -> None:
        """Receive a whole body of `announced` bytes.

        Raises QuotaExceeded as soon as it is known, and InvalidArgument for another number of bytes.
        """
        await self.announce(announced)
        async for chunk in chunks:
            await self.write(chunk)
            upload = self._upload
            if upload is not None and upload.quota_left is not None and self.length > upload.quota_left:
                await in_thread(upload.check_quota, self.length)
        await self.flush()
        if announced is not None and self.length != announced:
            raise InvalidArgument(f"the body has {self.length} bytes, announced were {announced}")

    async def announce(self, size: int | None) -> None:
        """Raise QuotaExceeded if a file of `size` bytes does not fit into what is left of the quota."""
        upload = self._upload
        if size is None or upload is None or upload.quota_left is None or size <= upload.quota_left:
            return
        await in_thread(upload.check_quota, size)

    def properties(self, media_type: str | None, encoding: str | None) -> dict[str, str | None]:
        """Return the properties of a node with these bytes."""
        found: dict[str, str | None] = {MD5: self.md5, ADLER32: self.adler32}
        if media_type:
            found[TYPE] = media_type
        if encoding:
            found[ENCODING] = encoding
        return found

    def stage(self, properties: dict[str, str | None], *, sync: bool = True) -> Upload:
        """Write the bytes to a file with `properties` that has no name yet; call it in a thread.

        Without `sync` the caller makes it durable. Raises Faults, and OSError for what was in memory.
        """
        upload = self._upload
        if upload is None:
            upload = self._upload = self._begin()
            if isinstance(self._sink, MemorySink):
                _write_all(upload.descriptor, self._sink.data)
        upload.prepare(properties, sync=sync)
        return upload

    def commit(self, properties: dict[str, str | None]) -> os.stat_result:
        """`stage` the bytes, make the node appear, and return its status; call it in a thread. Raises Faults."""
        try:
            upload = self.stage(properties)
        except OSError as error:
            raise storage_failure(error) from error
        upload.place()
        return os.fstat(upload.descriptor)

    async def close(self, *, keep: bool = False) -> None:
        """Release the file; it is lost unless it was placed, or is left to another process (*keep*)."""
        try:
            if isinstance(self._sink, FileSink):
                await self._sink.close()
        finally:
            if self._upload is not None:
                self._upload.close(keep=keep)


def _write_all(descriptor: int, data: bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
