"""Stores of node properties: extended attributes, or files beside the space if the file system has none.

A property store maps keys to bytes for open files and directories; attributes.py interprets them.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from vospace.storage.identity import NoIdentity, identity

logger = logging.getLogger(__name__)

_PREFIX = "user."
NAME = ".vospace-properties"
MAX_RECORD = 64 << 10
"""Maximum bytes of a node's properties, about the limit of extended attributes."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.E2BIG, errno.ERANGE, errno.EINVAL, errno.ENOTSUP)
_PROBE = "ivo://skao.int/vospace/core#probe"


class NoRoom(Exception):
    """The file system has no space for a property; `what` names it."""

    def __init__(self, what: str, error: OSError) -> None:
        super().__init__(f"{what} cannot be stored: {error.strerror}")


class PropertyStore(Protocol):
    """Stores the properties of the file or directory that a descriptor is open on."""

    beside: bool
    """Whether they are kept beside the files, so that an open file loses them with its last name."""

    def check(self, descriptor: int) -> None:
        """Raises ValueError if the file system of that directory does not support this store."""

    def load(self, descriptor: int) -> dict[str, bytes]: ...

    def one(self, descriptor: int, key: str) -> bytes | None: ...

    def save(self, descriptor: int, changes: Mapping[str, bytes | None]) -> None:
        """Set properties, or remove those that are None: all or none. Raises NoRoom."""

    def record(self, descriptor: int) -> Path | None:
        """Return the file to remove with the node, None if there is none."""


class ExtendedAttributes:
    """Properties in `user.<key>`, as in OpenCADC's Cavern; they move with the node."""

    beside = False

    def check(self, descriptor: int) -> None:
        try:
            os.getxattr(descriptor, _PREFIX + _PROBE)
        except OSError as error:
            if error.errno == errno.ENOTSUP:
                raise ValueError("the file system has no extended attributes user.*") from error
            if error.errno != errno.ENODATA:
                raise

    def load(self, descriptor: int) -> dict[str, bytes]:
        try:
            names = os.listxattr(descriptor)
        except OSError as error:
            if error.errno == errno.ENOTSUP:
                return {}
            raise
        found = {}
        for name in names:
            if name.startswith(_PREFIX) and (value := _get(descriptor, name)) is not None:
                found[name[len(_PREFIX) :]] = value
        return found

    def one(self, descriptor: int, key: str) -> bytes | None:
        return _get(descriptor, _PREFIX + key)

    def save(self, descriptor: int, changes: Mapping[str, bytes | None]) -> None:
        before: dict[str, bytes | None] = {}
        # Removals first, to make space for new values.
        for key, value in sorted(changes.items(), key=lambda item: item[1] is not None):
            name = _PREFIX + key
            try:
                before[name] = _get(descriptor, name)
                _put(descriptor, name, value)
            except OSError as error:
                for changed, old in reversed(before.items()):
                    with suppress(OSError):
                        _put(descriptor, changed, old)
                if error.errno in _NO_ROOM:
                    raise NoRoom(f"property {key[:100]}", error) from error
                raise

    def record(self, descriptor: int) -> Path | None:
        """Return None: extended attributes are removed with the inode."""
        return None


def _get(descriptor: int, name: str) -> bytes | None:
    try:
        return os.getxattr(descriptor, name)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return None
        raise


def _put(descriptor: int, name: str, value: bytes | None) -> None:
    if value is not None:
        os.setxattr(descriptor, name, value)
        return
    try:
        os.removexattr(descriptor, name)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise


class Sidecar:
    """Properties in one small file per node, in a directory outside the mounted space.

    A record is named by its node's identity, so it stays with the node wherever and by whomever that is moved, and is
    never found by another node. It is replaced atomically, under a lock shared by all processes.
    """

    beside = True

    def __init__(self, base: Path) -> None:
        """Store records in *base*, which must be on a file system with atomic renames."""
        self._directory = base / NAME
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def check(self, descriptor: int) -> None:
        try:
            identity(descriptor)
        except NoIdentity as error:
            raise ValueError(error.strerror) from error

    def load(self, descriptor: int) -> dict[str, bytes]:
        return self._load(self.record(descriptor))

    def one(self, descriptor: int, key: str) -> bytes | None:
        return self.load(descriptor).get(key)

    def save(self, descriptor: int, changes: Mapping[str, bytes | None]) -> None:
        if not changes:
            return
        record = self.record(descriptor)
        with _locked(record.parent):
            values = {**self._load(record), **changes}
            kept = {key: value.decode("utf-8") for key, value in values.items() if value is not None}
            if not kept:
                record.unlink(missing_ok=True)
                return
            content = json.dumps(kept, ensure_ascii=False).encode()
            try:
                if len(content) > MAX_RECORD:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                _replace(record, content)
            except OSError as error:
                if error.errno in _NO_ROOM:
                    raise NoRoom(f"{len(content)} bytes of properties", error) from error
                raise

    def record(self, descriptor: int) -> Path:
        name = identity(descriptor)
        return self._directory / name[:2] / name

    def prune(self, alive: frozenset[str], before: float) -> int:
        """Remove records written `before` (s since the epoch) for nodes that are not among those identities, and files
        left by dead processes; return the number of records removed."""
        removed = 0
        for shard in self._directory.iterdir():
            for record in shard.iterdir():
                with _locked(shard), suppress(FileNotFoundError):
                    if record.name not in alive and record.stat().st_mtime < before:
                        record.unlink()
                        removed += not record.name.startswith(".")
        return removed

    @staticmethod
    def _load(record: Path) -> dict[str, bytes]:
        try:
            values = json.loads(record.read_bytes())
            return {key: value.encode("utf-8") for key, value in values.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError):
            logger.error("the properties in %s cannot be read", record)
            return {}


def _replace(record: Path, content: bytes) -> None:
    temporary = record.with_name(f".{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(record)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Lock the directory, created if missing, against all processes; sync it at the end."""
    directory.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_store(where: str, base: Path) -> PropertyStore:
    """Return the store for a value of the setting: `xattrs` or `sidecar`."""
    return Sidecar(base) if where == "sidecar" else ExtendedAttributes()
