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


class Locks:
    """The lock file in *directory*, created if missing."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        os.close(self._open())

    @contextmanager
    def held(self, directory: Directory, name: str) -> Iterator[None]:
        """Wait for the lock on a name of an open container, and hold it in the block. Not to be nested."""
        key = f"{directory.status.stat.st_dev}:{directory.status.stat.st_ino}:".encode() + os.fsencode(name)
        descriptor = self._open()
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW, _request(zlib.crc32(key)))
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


def _request(byte: int) -> bytes:
    return _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
