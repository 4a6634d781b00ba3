"""Tar and zip archives as streams: whatever their size, one block is in memory."""

from __future__ import annotations

import os
import tarfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress

from vospace.models.caller import Caller
from vospace.models.errors import Fault
from vospace.models.uri import Path
from vospace.services.space import OpenFile, Space
from vospace.storage.tree import Kind

TAR = "application/x-tar"
ZIP = "application/zip"
_BLOCK = 1 << 20
_TAR_RECORD = 512


def members(space: Space, caller: Caller, targets: list[Path]) -> Iterator[tuple[str, Path, str]]:
    """Name in the archive, path and kind of all that the caller may read; what is missing or unreadable is left out."""
    for target in targets:
        try:
            found = space.walk(caller, target)
            base = len(space.resolve(caller, target)) - 1
            for path, kind in found:
                if kind == Kind.CONTAINER and not space.node(caller, path).readable:
                    continue
                yield "/".join(path[max(base, 0) :]) or "root", path, kind
        except Fault:
            continue


def tar(space: Space, caller: Caller, targets: list[Path]) -> Iterator[bytes]:
    """A POSIX (pax) tar."""
    inside = _tops(space, caller, targets)
    for name, path, kind in members(space, caller, targets):
        entry = tarfile.TarInfo(name)
        entry.mtime = int(time.time())
        if kind == Kind.CONTAINER:
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            yield _header(entry)
        elif kind == Kind.LINK:
            if (text := _link_text(space, caller, path, inside)) is not None:
                entry.type, entry.linkname = tarfile.SYMTYPE, text
                yield _header(entry)
        elif (opened := _open(space, caller, path)) is not None:
            try:
                entry.size, entry.mtime = opened.status.stat.st_size, int(opened.status.stat.st_mtime)
                yield _header(entry)
                yield from _content(opened)
                yield bytes(-entry.size % _TAR_RECORD)
            finally:
                os.close(opened.descriptor)
    yield bytes(2 * _TAR_RECORD)


def zipped(space: Space, caller: Caller, targets: list[Path]) -> Iterator[bytes]:
    """A zip without compression, with sizes behind the bytes (Zip64 where needed)."""
    inside = _tops(space, caller, targets)
    sink = _Buffer()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, path, kind in members(space, caller, targets):
            if kind == Kind.CONTAINER:
                archive.writestr(zipfile.ZipInfo(name + "/"), b"")
            elif kind == Kind.LINK:
                if (text := _link_text(space, caller, path, inside)) is not None:
                    link = zipfile.ZipInfo(name)
                    link.create_system, link.external_attr = 3, 0o120777 << 16
                    archive.writestr(link, text)
            elif (opened := _open(space, caller, path)) is not None:
                try:
                    moment = time.gmtime(max(opened.status.stat.st_mtime, 315_532_800))[:6]
                    entry = zipfile.ZipInfo(name, moment)
                    entry.external_attr = 0o100644 << 16
                    with archive.open(entry, "w", force_zip64=True) as member:
                        for block in _content(opened):
                            member.write(block)
                            yield sink.take()
                finally:
                    os.close(opened.descriptor)
            yield sink.take()
    yield sink.take()


def _tops(space: Space, caller: Caller, targets: list[Path]) -> list[Path]:
    """Where the targets are, links followed, as far as they can be reached."""
    found = []
    for target in targets:
        with suppress(Fault):
            found.append(space.resolve(caller, target))
    return found


def _header(entry: tarfile.TarInfo) -> bytes:
    return entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _open(space: Space, caller: Caller, path: Path) -> OpenFile | None:
    with suppress(Fault, OSError):
        return space.open(caller, path)
    return None


def _content(opened: OpenFile) -> Iterator[bytes]:
    position, size = 0, opened.status.stat.st_size
    while position < size:
        block = os.pread(opened.descriptor, min(_BLOCK, size - position), position)
        if not block:
            raise OSError("a file became shorter while it was packed")
        position += len(block)
        yield block


def _link_text(space: Space, caller: Caller, path: Path, inside: list[Path]) -> str | None:
    """The relative text of a link whose target is in the archive too."""
    try:
        target = space.node(caller, path).target
    except Fault:  # removed meanwhile
        return None
    if isinstance(target, tuple) and any(target[: len(top)] == top for top in inside):
        return space.tree.link_text(path[:-1], target)
    return None


class _Buffer:
    """What ZipFile writes to: a stream without seeking, emptied as it fills."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes) -> int:
        self._data += data
        return len(data)

    def flush(self) -> None:
        return

    def close(self) -> None:
        return

    def take(self) -> bytes:
        data = bytes(self._data)
        self._data.clear()
        return data
