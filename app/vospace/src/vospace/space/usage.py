"""Usage of quotas, counted for all server processes together.

Each container with a quota has a small file beside the space with the counted bytes and those being added. It is
changed under its lock, so that uploads in different processes cannot exceed the quota together. Before an upload is
rejected, usage is counted again, since files may have been removed through a mount of the space.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path as FilePath

from vospace.models.errors import QuotaExceeded
from vospace.models.uri import Path
from vospace.storage.system_calls import is_gone
from vospace.storage.tree import Tree, Walk

NAME = ".vospace-usage"
MAX_AGE = 60.0
"""Seconds for which a count is valid, and after which reservations of a dead process expire."""
MIN_AGE = 1.0
"""Minimum seconds between counts before a rejection."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class _Record:
    counted: float = 0.0
    used: int = 0
    reserved: int = 0


class Usage:
    """Bytes below the containers of a tree that have a quota, recorded in `directory`."""

    def __init__(self, directory: FilePath, tree: Tree) -> None:
        self._directory = directory / NAME
        self._directory.mkdir(mode=0o700, exist_ok=True)
        self._edition = self._directory / "edition"
        self._edition.touch(mode=0o600)
        self._tree = tree

    def left(self, path: Path, limit: int, size: int = 1) -> int:
        """Return the bytes left of `limit`. Raises QuotaExceeded if they are fewer than `size`."""
        with self._record(path) as record:
            self._require(record, path, limit, size)
            return limit - record.used - record.reserved

    def reserve(self, path: Path, limit: int, size: int) -> None:
        """Reserve bytes that are about to be added. Raises QuotaExceeded if they do not fit."""
        with self._record(path) as record:
            self._require(record, path, limit, size)
            record.reserved += size

    def settle(self, path: Path, size: int, *, added: bool) -> None:
        """Release a reservation, whether or not the bytes were added."""
        with self._record(path) as record:
            record.reserved = max(0, record.reserved - size)
            if added:
                record.used += size

    def forget(self, path: Path) -> None:
        """Count again at the next query, after deletions."""
        with suppress(FileNotFoundError), self._record(path, os.O_RDWR) as record:
            record.counted = 0.0

    @property
    def edition(self) -> int:
        """Number that changes whenever a quota is set."""
        return os.stat(self._edition).st_mtime_ns

    def changed(self, path: Path) -> None:
        """Note that a container's quota was set, lowered or removed: existing bytes now count, also for running
        uploads."""
        self.forget(path)
        descriptor = os.open(self._edition, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # By a second, the coarsest time resolution of file systems.
            after = max(time.time_ns(), os.fstat(descriptor).st_mtime_ns + 10**9)
            os.utime(descriptor, ns=(after, after))
        finally:
            os.close(descriptor)

    def _count(self, path: Path) -> int:
        """Count the bytes below a container."""
        with Walk(self._tree, lambda _: None).container(path) as directory:
            return measure(directory.descriptor)

    def _require(self, record: _Record, path: Path, limit: int, size: int) -> None:
        age = time.time() - record.counted
        full = record.used + record.reserved + size > limit
        if not 0 <= age <= MAX_AGE or (full and record.reserved == 0 and age > MIN_AGE):
            if record.counted and not 0 <= age <= MAX_AGE:
                record.reserved = 0
            record.used = self._count(path)
            record.counted = time.time()
            full = record.used + record.reserved + size > limit
        if full:
            raise QuotaExceeded(limit)

    @contextmanager
    def _record(self, path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[_Record]:
        name = hashlib.sha256("/".join(path).encode()).hexdigest()
        descriptor = os.open(self._directory / name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            record = _read(os.pread(descriptor, 4096, 0))
            try:
                yield record
            finally:
                written = json.dumps(asdict(record)).encode()
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, written, 0)
        finally:
            os.close(descriptor)


def _read(content: bytes) -> _Record:
    """Return a record; a new file, or one truncated by a full disk, gives one that requires a count."""
    try:
        return _Record(**json.loads(content))
    except (ValueError, TypeError):
        return _Record()


def measure(descriptor: int) -> int:
    """Bytes of all files below an open directory; links are not followed."""
    total = 0
    pending = [os.dup(descriptor)]
    try:
        while pending:
            current = pending.pop()
            try:
                with os.scandir(current) as entries:
                    for entry in entries:
                        try:
                            if entry.is_dir(follow_symlinks=False):
                                pending.append(os.open(entry.name, _DIRECTORY, dir_fd=current))
                            elif entry.is_file(follow_symlinks=False):
                                total += entry.stat(follow_symlinks=False).st_size
                        except OSError as error:
                            # Removed in the meantime, or replaced by a file or a link.
                            if not is_gone(error) and error.errno not in (errno.ENOTDIR, errno.ELOOP):
                                raise
            finally:
                os.close(current)
    finally:
        for current in pending:
            os.close(current)
    return total
