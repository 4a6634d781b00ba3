"""A zip archive as a stream that streaming readers can read too (PKWARE's APPNOTE 6.3.10).

The members use the method deflate with stored blocks (RFC 1951 section 3.2.4), that is without compression:
astronomical data hardly shrinks, and all sizes are known in advance. The checksum of a large file is not; it follows
the bytes in a data descriptor, which streaming readers find only after deflated data.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Iterator

from zlib_ng import zlib_ng

READ_TWICE = 64 << 20
"""Maximum bytes of a file that is read for its checksum before it is sent, so that its header is complete."""
STORED_BLOCK = 0xFFFF
"""Bytes of a full stored block; files are best read in multiples of it."""

_LAST_BLOCK = b"\x01\x00\x00\xff\xff"
_BLOCK_HEADER = 5
_MAX_16, _MAX_32 = 0xFFFF, 0xFFFFFFFF
_EARLIEST, _LATEST = 315_532_800, 4_354_819_198
"""1980-01-01 and 2107-12-31, the range of times in the format."""
_LATEST_32 = 0x7FFFFFFF

_FILE, _DIRECTORY, _LINK = 0o100644, 0o040755, 0o120777
_MSDOS_DIRECTORY = 0x10
_UNIX = 3 << 8
_STORED, _DEFLATED = 0, 8
_DESCRIPTOR_FOLLOWS, _UTF8 = 1 << 3, 1 << 11
_PLAIN_VERSION, _ZIP64_VERSION = 20, 45

Blocks = Callable[[], Iterable[bytes]]
"""Function that yields the bytes of a file, from the beginning at each call."""


class ZipStream:
    """Writes members as bytes of an archive, one after the other."""

    def __init__(self) -> None:
        self._position = 0
        self._central: list[bytes] = []

    def directory(self, name: str, modified: float) -> Iterator[bytes]:
        """An empty directory."""
        entry = _Entry(f"{name}/", _DIRECTORY, modified, self._position, method=_STORED)
        yield self._sent(entry.header())
        self._central.append(entry.listed())

    def link(self, name: str, text: str, modified: float) -> Iterator[bytes]:
        """A symbolic link."""
        content = text.encode()
        yield from self._member(name, _LINK, modified, len(content), lambda: (content,))

    def file(self, name: str, modified: float, size: int, blocks: Blocks) -> Iterator[bytes]:
        """Write a file of that many bytes. Raises OSError if it changes between two reads."""
        yield from self._member(name, _FILE, modified, size, blocks)

    def end(self) -> Iterator[bytes]:
        """The central directory."""
        start = self._position
        for listed in self._central:
            yield self._sent(listed)
        size, count = self._position - start, len(self._central)
        if count >= _MAX_16 or max(size, start) >= _MAX_32:
            yield struct.pack(
                "<LQHHLLQQQQ",
                *(0x06064B50, 44, _UNIX | _ZIP64_VERSION, _ZIP64_VERSION, 0, 0, count, count, size, start),
            )
            yield struct.pack("<LLQL", 0x07064B50, 0, start + size, 1)
        count = min(count, _MAX_16)
        yield struct.pack(
            "<LHHHHLLH", 0x06054B50, 0, 0, count, count, min(size, _MAX_32), min(start, _MAX_32), 0
        )

    def _member(self, name: str, mode: int, modified: float, size: int, blocks: Blocks) -> Iterator[bytes]:
        entry = _Entry(name, mode, modified, self._position, size=size)
        if not entry.described:
            for block in blocks():
                entry.add(block)
        yield self._sent(entry.header())
        known, entry.checksum = entry.checksum, 0
        for piece in _deflated(entry.add(block) for block in blocks()):
            yield self._sent(piece)
        yield self._sent(_LAST_BLOCK)
        if entry.described:
            yield self._sent(entry.descriptor())
        elif entry.checksum != known:
            raise OSError("a file was changed while it was packed")
        self._central.append(entry.listed())

    def _sent(self, data: bytes) -> bytes:
        self._position += len(data)
        return data


class _Entry:
    """Headers of one member, before its bytes and in the central directory."""

    def __init__(
        self, name: str, mode: int, modified: float, position: int, *, size: int = 0, method: int = _DEFLATED
    ) -> None:
        self._name = name.encode()
        self._mode = mode
        self._time = _Time(modified)
        self._position = position
        self._size = size
        self._method = method
        self._packed = 0 if method == _STORED else _deflated_size(size)
        self._large = self._packed > _MAX_32
        self.described = size > READ_TWICE
        """Whether a data descriptor follows the bytes."""
        self.checksum = 0
        """CRC-32 of the bytes added so far."""

    def add(self, block: bytes) -> bytes:
        """Add the next bytes to the checksum, and return them."""
        self.checksum = zlib_ng.crc32(block, self.checksum)
        return block

    def header(self) -> bytes:
        """Return the local file header; fields in the data descriptor are zero."""
        checksum, packed, size = (0, 0, 0) if self.described else (self.checksum, self._packed, self._size)
        extra = self._time.extra
        if self._large:
            extra += struct.pack("<HHQQ", 0x0001, 16, size, packed)
            packed = size = _MAX_32
        return (
            struct.pack("<L", 0x04034B50) + self._common(checksum, packed, size, extra) + self._name + extra
        )

    def descriptor(self) -> bytes:
        """Return the data descriptor; the length of its sizes is the one that Java expects for the bytes read."""
        return struct.pack(
            "<LLQQ" if self._large else "<LLLL", 0x08074B50, self.checksum, self._packed, self._size
        )

    def listed(self) -> bytes:
        """Return the entry of the central directory."""
        large = [value for value in (self._size, self._packed, self._position) if value >= _MAX_32]
        extra = self._time.extra
        if large:
            extra += struct.pack(f"<HH{len(large)}Q", 0x0001, 8 * len(large), *large)
        attributes = self._mode << 16 | (_MSDOS_DIRECTORY if self._mode == _DIRECTORY else 0)
        packed, size, position = (min(value, _MAX_32) for value in (self._packed, self._size, self._position))
        return (
            struct.pack("<LH", 0x02014B50, _UNIX | _ZIP64_VERSION)
            + self._common(self.checksum, packed, size, extra)
            + struct.pack("<HHHLL", 0, 0, 0, attributes, position)
            + self._name
            + extra
        )

    def _common(self, checksum: int, packed: int, size: int, extra: bytes) -> bytes:
        version = _ZIP64_VERSION if len(extra) > len(self._time.extra) else _PLAIN_VERSION
        flags = _UTF8 | _DESCRIPTOR_FOLLOWS if self.described else _UTF8
        return struct.pack(
            "<HHHHHLLLHH",
            *(version, flags, self._method, self._time.clock, self._time.day),
            *(checksum, packed, size, len(self._name), len(extra)),
        )


class _Time:
    """A time in MS-DOS format, in UTC, and in UNIX format if it fits."""

    def __init__(self, modified: float) -> None:
        seconds = min(max(int(modified), _EARLIEST), _LATEST)
        utc = time.gmtime(seconds)
        self.day = (utc.tm_year - 1980) << 9 | utc.tm_mon << 5 | utc.tm_mday
        self.clock = utc.tm_hour << 11 | utc.tm_min << 5 | utc.tm_sec // 2
        self.extra = struct.pack("<HHBL", 0x5455, 5, 1, seconds) if seconds <= _LATEST_32 else b""


def _deflated_size(size: int) -> int:
    """Return the size of that many bytes in stored blocks."""
    return size + _BLOCK_HEADER * -(-size // STORED_BLOCK) + len(_LAST_BLOCK)


def _deflated(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield stored blocks, all full regardless of the pieces, so that their number is known; without the last."""
    rest = b""
    for block in blocks:
        data = rest + block if rest else block
        full = len(data) - len(data) % STORED_BLOCK
        yield _stored(data[:full])
        rest = data[full:]
    yield _stored(rest)


def _stored(data: bytes) -> bytes:
    parts = []
    for start in range(0, len(data), STORED_BLOCK):
        part = data[start : start + STORED_BLOCK]
        parts += [struct.pack("<BHH", 0, len(part), len(part) ^ _MAX_16), part]
    return b"".join(parts)
