"""Node properties, by their URIs.

MD5 and adler32 are valid only for the bytes that they were computed from: a private property records size and change
time, and both checksums are omitted as soon as these differ. For files without this record (written by another
implementation), the checksums are trusted.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from vospace_client.terms import ADLER32, ENCODING, MD5, SKAO, TYPE

from vospace.models.errors import InvalidArgument
from vospace.models.uri import XML_SPACE
from vospace.storage.property_store import NoRoom, PropertyStore
from vospace.storage.system_calls import is_gone

OF_CONTENT = frozenset({MD5, ADLER32, TYPE, ENCODING})
"""Properties that belong to the bytes."""

OF_EMPTY = {MD5: "d41d8cd98f00b204e9800998ecf8427e", ADLER32: "00000001"}
"""Checksums of an empty file."""

STAMP = f"{SKAO}stamp"
_CHECKSUMS = (MD5, ADLER32)


class Properties:
    """Properties of open files and directories."""

    def __init__(self, store: PropertyStore) -> None:
        self.store = store

    def read(self, descriptor: int) -> tuple[dict[str, str], os.stat_result]:
        """Return all properties, checksums only if still valid, and the status that they belong to."""
        found = {key: _text(value) for key, value in self.store.load(descriptor).items()}
        status = os.fstat(descriptor)
        stamp = found.pop(STAMP, None)
        if stamp is not None and stamp != _stamp(status):
            for key in _CHECKSUMS:
                found.pop(key, None)
        if MD5 in found:
            found[MD5] = found[MD5].removeprefix("md5:")
        return found, status

    def one(self, descriptor: int, key: str) -> str | None:
        """Return one property, without checking the bytes."""
        value = self.store.one(descriptor, key)
        return None if value is None else _text(value)

    def write(self, descriptor: int, properties: Mapping[str, str | None]) -> None:
        """Set properties, all or none; None removes one. Raises InvalidArgument if there is no room for them."""
        changes = {key: None if value is None else value.encode("utf-8") for key, value in properties.items()}
        if any(properties.get(key) is not None for key in _CHECKSUMS):
            changes[STAMP] = _stamp(os.fstat(descriptor)).encode()
        try:
            self.store.save(descriptor, changes)
        except NoRoom as error:
            raise InvalidArgument(str(error)) from error

    @contextmanager
    def of_removed(self, descriptor: int) -> Iterator[None]:
        """Remove a node's properties with its last name, which is removed in the block. The descriptor is closed
        before, since an open one would keep the node under another name on NFS."""
        try:
            found = os.fstat(descriptor)
            record = self.store.record(descriptor)
        finally:
            os.close(descriptor)
        yield
        if record is not None and (found.st_nlink <= 1 or stat.S_ISDIR(found.st_mode)):
            record.unlink(missing_ok=True)

    def of_unnamed(self, descriptor: int) -> None:
        """Remove the properties of an open file if it has no name."""
        try:
            unnamed = os.fstat(descriptor).st_nlink == 0
        except OSError as error:
            if not is_gone(error):
                raise
            # With its properties: another machine removed what was placed before.
            return
        if unnamed and (record := self.store.record(descriptor)) is not None:
            record.unlink(missing_ok=True)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace").strip(XML_SPACE)


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_size}:{status.st_mtime_ns}"
