"""Node properties, by their URIs.

MD5 and adler32 are only worth something while the bytes are those they were computed of: a private property notes size
and time of change then, and both are left out as soon as that no longer fits. Files without the note (written by
another implementation) are believed.
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

OF_CONTENT = frozenset({MD5, ADLER32, TYPE, ENCODING})
"""Properties that go with the bytes."""

OF_EMPTY = {MD5: "d41d8cd98f00b204e9800998ecf8427e", ADLER32: "00000001"}
"""Checksums of no bytes."""

STAMP = f"{SKAO}stamp"
_CHECKSUMS = (MD5, ADLER32)


class Properties:
    """Properties of open files and directories."""

    def __init__(self, store: PropertyStore) -> None:
        self.store = store

    def read(self, descriptor: int) -> dict[str, str]:
        """All properties, checksums only if they still hold."""
        found = {key: _text(value) for key, value in self.store.load(descriptor).items()}
        stamp = found.pop(STAMP, None)
        if stamp is not None and stamp != _stamp(os.fstat(descriptor)):
            for key in _CHECKSUMS:
                found.pop(key, None)
        if MD5 in found:
            found[MD5] = found[MD5].removeprefix("md5:")
        return found

    def one(self, descriptor: int, key: str) -> str | None:
        """One property, without regard to the bytes."""
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
        """Around the removal of a node's last name: its properties go with it. The descriptor, which is closed before,
        would keep the node under another name on NFS."""
        try:
            found = os.fstat(descriptor)
            record = self.store.record(descriptor)
        finally:
            os.close(descriptor)
        yield
        if record is not None and (found.st_nlink <= 1 or stat.S_ISDIR(found.st_mode)):
            record.unlink(missing_ok=True)

    def of_unnamed(self, descriptor: int) -> None:
        """Forget the properties of an open file without a name, if it has none."""
        if os.fstat(descriptor).st_nlink == 0 and (record := self.store.record(descriptor)) is not None:
            record.unlink(missing_ok=True)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace").strip(XML_SPACE)


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_size}:{status.st_mtime_ns}"
