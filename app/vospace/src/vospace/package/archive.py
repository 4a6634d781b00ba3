"""Tar and zip archives of nodes as streams: whatever their size, one block is in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Protocol

from vospace.models.caller import Caller
from vospace.models.errors import Fault
from vospace.models.uri import Path
from vospace.package.members import Member, members
from vospace.package.tar_stream import TarStream
from vospace.package.zip_stream import STORED_BLOCK, ZipStream
from vospace.space.lookup import OpenFile
from vospace.space.space import Space
from vospace.storage.tree import Kind

TAR = "application/x-tar"
ZIP = "application/zip"
_BLOCK = 16 * STORED_BLOCK


class Stream(Protocol):
    """Writer of an archive's bytes."""

    def directory(self, name: str, modified: float) -> Iterator[bytes]: ...

    def link(self, name: str, text: str, modified: float) -> Iterator[bytes]: ...

    def file(
        self, name: str, modified: float, size: int, blocks: Callable[[], Iterable[bytes]]
    ) -> Iterator[bytes]: ...

    def end(self) -> Iterator[bytes]: ...


STREAMS: dict[str, Callable[[], Stream]] = {TAR: TarStream, ZIP: ZipStream}
"""Kinds of archives by their media type."""


def packed(space: Space, caller: Caller, targets: list[Path], kind: str) -> Iterator[bytes]:
    """An archive of all below the targets that the caller may read. Raises OSError if a file changes in between."""
    small = bytearray()
    for piece in _pieces(space, caller, targets, STREAMS[kind]()):
        small += piece
        if len(small) >= _BLOCK:
            yield bytes(small)
            small.clear()
    yield bytes(small)


def _pieces(space: Space, caller: Caller, targets: list[Path], stream: Stream) -> Iterator[bytes]:
    for member in members(space, caller, targets):
        if member.kind is Kind.CONTAINER:
            yield from stream.directory(member.name, member.modified)
        elif member.kind is Kind.LINK:
            yield from stream.link(member.name, member.text, member.modified)
        else:
            yield from _file(space, caller, member, stream)
    yield from stream.end()


def _file(space: Space, caller: Caller, member: Member, stream: Stream) -> Iterator[bytes]:
    opened = None
    with suppress(Fault, OSError):
        opened = space.open(caller, member.path)
    if opened is None:
        return
    try:
        found = opened.status.stat
        yield from stream.file(member.name, found.st_mtime, found.st_size, lambda: _content(opened))
    finally:
        os.close(opened.descriptor)


def _content(opened: OpenFile) -> Iterator[bytes]:
    position, size = 0, opened.status.stat.st_size
    while position < size:
        block = os.pread(opened.descriptor, min(_BLOCK, size - position), position)
        if not block:
            raise OSError("a file became shorter while it was packed")
        position += len(block)
        yield block
