"""A tar archive as a stream (POSIX pax)."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterable, Iterator

_RECORD = 512
_LATEST = 0o77777777777
"""Largest time in the header, in seconds since the epoch (year 2242)."""


class TarStream:
    """Writes members as bytes of an archive, one after the other."""

    def directory(self, name: str, modified: float) -> Iterator[bytes]:
        """An empty directory."""
        yield _header(name, modified, type=tarfile.DIRTYPE, mode=0o755)

    def link(self, name: str, text: str, modified: float) -> Iterator[bytes]:
        """A symbolic link."""
        yield _header(name, modified, type=tarfile.SYMTYPE, mode=0o777, linkname=text)

    def file(
        self, name: str, modified: float, size: int, blocks: Callable[[], Iterable[bytes]]
    ) -> Iterator[bytes]:
        """A file of that many bytes."""
        yield _header(name, modified, size=size, mode=0o644)
        yield from blocks()
        yield bytes(-size % _RECORD)

    def end(self) -> Iterator[bytes]:
        """Return the end of the archive."""
        yield bytes(2 * _RECORD)


def _header(name: str, modified: float, **fields: object) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.mtime = min(max(int(modified), 0), _LATEST)
    for field, value in fields.items():
        setattr(entry, field, value)
    return entry.tobuf(tarfile.PAX_FORMAT, "utf-8")
