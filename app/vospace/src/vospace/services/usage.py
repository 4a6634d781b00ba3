"""How much of a quota is used."""

from __future__ import annotations

import os
import threading
import time

from vospace.models.errors import QuotaExceeded
from vospace.models.uri import Path
from vospace.storage.tree import Directory

MAX_AGE = 60.0


class Usage:
    """Bytes below containers with a quota: counted at most once a minute, and kept up with what this process adds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[Path, tuple[float, int]] = {}

    def room(self, directory: Directory, limit: int) -> int:
        """Bytes left of `limit` below the directory. Raises QuotaExceeded if none is."""
        with self._lock:
            counted, used = self._known.get(directory.path, (0.0, 0))
        if time.monotonic() - counted > MAX_AGE or not counted:
            used = measure(directory.descriptor)
            with self._lock:
                self._known[directory.path] = (time.monotonic(), used)
        if used >= limit:
            raise QuotaExceeded(limit)
        return limit - used

    def reserve(self, path: Path, limit: int, size: int) -> None:
        """Count bytes that are about to be added, unless they do not fit: QuotaExceeded."""
        with self._lock:
            counted, used = self._known.get(path, (0.0, 0))
            if used + size > limit:
                raise QuotaExceeded(limit)
            self._known[path] = (counted, used + size)

    def release(self, path: Path, size: int) -> None:
        """The bytes were not added after all."""
        with self._lock:
            if path in self._known:
                counted, used = self._known[path]
                self._known[path] = (counted, max(0, used - size))

    def forget(self) -> None:
        """After deletions: count anew when asked."""
        with self._lock:
            self._known.clear()


def measure(descriptor: int) -> int:
    """Bytes of all files below an open directory; links are not followed."""
    total = 0
    pending = [os.dup(descriptor)]
    while pending:
        current = pending.pop()
        try:
            with os.scandir(current) as entries:
                for entry in entries:
                    try:
                        if entry.is_dir(follow_symlinks=False):
                            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                            pending.append(os.open(entry.name, flags, dir_fd=current))
                        elif entry.is_file(follow_symlinks=False):
                            total += entry.stat(follow_symlinks=False).st_size
                    except FileNotFoundError:
                        continue
        finally:
            os.close(current)
    return total
