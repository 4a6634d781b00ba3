"""Locks on names, so that changes of a node in several steps are atomic with respect to other processes, and what a
process builds under a reserved name is its own as long as it lives.

A lock is a byte of a file beside the space, chosen by the container's inode and the name, and held by an open file
description (fcntl(2), OFD locks): between threads, processes and, on a shared file system, machines. Users
who mount the space cannot reach the file. Locks are released when their process dies.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vospace.models.uri import STAGING_PREFIX
from vospace.storage.tree import Directory

NAME = ".vospace-locks"
_BUILDING = 1 << 32
"""Offset of the bytes for what is being built, which may be locked together with one for a node."""
_FLOCK = struct.Struct("@hhqqi4x")
"""struct flock on 64 bits: type, whence, start, length, pid."""


Place = tuple[Directory, str]
"""An open container and a name in it."""


class Locks:
    """The lock file in *directory*, created if missing."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        os.close(self._open())

    @contextmanager
    def held(self, *places: Place) -> Iterator[None]:
        """Wait for the locks on names of open containers, and hold them in the block. Not to be nested: who needs two
        asks for both, so that they are taken in one order by everybody."""
        descriptor = self._open()
        try:
            for byte in sorted({_byte(directory, name) for directory, name in places}):
                fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW, _request(byte))
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def building(self, what: str = "") -> Iterator[str]:
        """Yield an unused reserved name, which is this block's to build a node under."""
        while True:
            name = f"{STAGING_PREFIX}{what}{secrets.token_hex(12)}"
            with self.unused(name) as mine:
                if mine:
                    yield name
                    return

    @contextmanager
    def unused(self, name: str) -> Iterator[bool]:
        """Yield whether no living process builds under a reserved name; none begins to in the block.

        The name alone counts, which is random: machines may know a shared file system by different numbers.
        """
        descriptor = self._open()
        try:
            try:
                fcntl.fcntl(
                    descriptor, fcntl.F_OFD_SETLK, _request(_BUILDING + zlib.crc32(os.fsencode(name)))
                )
            except BlockingIOError:
                free = False
            else:
                free = True
            yield free
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _byte(directory: Directory, name: str) -> int:
    """Return the lock's offset. The device is no part of it: each machine that mounts a shared file system gives it a
    number of its own."""
    return zlib.crc32(f"{directory.status.stat.st_ino}:".encode() + os.fsencode(name))


def _request(byte: int) -> bytes:
    return _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
