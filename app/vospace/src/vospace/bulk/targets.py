"""Targets of a bulk pull: each container is opened once, and its permissions are checked once."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict

from voservice.content import Content
from voservice.digests import Digester
from vospace_client import terms

from vospace.bulk.model import Finished, IfExists, Row, RowState
from vospace.models.caller import Caller
from vospace.models.errors import DuplicateNode, Fault, InvalidArgument, InvalidURI
from vospace.models.uri import Path, check_new_name
from vospace.space.lookup import Located
from vospace.space.space import Space
from vospace.storage.tree import Kind, Status
from vospace.transfers.fetcher import Fetched

logger = logging.getLogger(__name__)
MAX_OPEN = 256
MAX_AGE = 5.0
"""Seconds after which a container's permissions are read again."""
_BLOCK = 1 << 20


class Target:
    """The location of one row's file; keeps its container open until `close`."""

    __slots__ = ("_entry", "exists", "place", "row", "started")

    def __init__(self, row: Row, place: Located, entry: _Entry | None, exists: bool, started: float) -> None:
        self.row = row
        self.place = place
        self.exists = exists
        self.started = started
        self._entry = entry
        if entry is not None:
            entry.acquire()

    def close(self) -> None:
        if self._entry is None:
            self.place.directory.close()
        else:
            self._entry.release()


class _Entry:
    """An open container in the cache, closed when it is out of the cache and out of use."""

    __slots__ = ("_lock", "_retired", "_users", "located", "may_create", "since")

    def __init__(self, located: Located, may_create: Fault | None) -> None:
        self.located = located
        self.may_create = may_create
        self.since = time.monotonic()
        self._users = 0
        self._retired = False
        self._lock = threading.Lock()

    def acquire(self) -> None:
        with self._lock:
            self._users += 1

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            self._close_if_idle()

    def retire(self) -> None:
        with self._lock:
            self._retired = True
            self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._retired and self._users == 0:
            self.located.directory.close()


class Targets:
    """Finds targets for one job; used by one thread at a time."""

    def __init__(self, space: Space, caller: Caller, if_exists: IfExists) -> None:
        self._space = space
        self._caller = caller
        self._if_exists = if_exists
        self._entries: OrderedDict[Path, _Entry] = OrderedDict()

    def close(self) -> None:
        while self._entries:
            self._retire()

    def find(self, row: Row, started: float) -> Target | Finished:
        """Return the target of the row's file, or the row's result if nothing has to be fetched."""
        try:
            return self._find(row, started)
        except Fault as fault:
            return failed(row, started, fault)
        except OSError as error:
            detail = f"{row.target}: {error.strerror}"
            return Finished(
                row.index, RowState.ERROR, started, fault="InternalFault", detail=detail, transient=True
            )
        except Exception as error:  # does not affect other rows
            logger.exception("row %d of a bulk pull cannot be resolved", row.index)
            detail = f"{row.target}: {type(error).__name__}"
            return Finished(row.index, RowState.ERROR, started, fault="InternalFault", detail=detail)

    def _find(self, row: Row, started: float) -> Target | Finished:
        path = self._space.naming.path(row.target)
        if not path:
            raise InvalidURI("the root is not a data node")
        entry = self._entry(path[:-1])
        directory = entry.located.directory
        place = Located(directory, path[-1], entry.located.access)
        kind = place.kind
        if kind is Kind.LINK:
            place = self._space.place(self._caller, path, follow=True)
            try:
                kind = place.kind
                if kind is None:
                    self._space.check_upload(place, replace=True)
                return self._resolve(row, place, None, kind, started)
            except BaseException:
                place.directory.close()
                raise
        if kind is None:
            check_new_name(place.name)
            if entry.may_create is not None:
                raise entry.may_create
        return self._resolve(row, place, entry, kind, started)

    def _resolve(
        self, row: Row, place: Located, entry: _Entry | None, kind: Kind | None, started: float
    ) -> Target | Finished:
        if kind is None:
            return Target(row, place, entry, False, started)
        if kind is not Kind.DATA:
            raise InvalidArgument(f"not a data node: {row.target}")
        descriptor = place.directory.open_file(place.name)
        try:
            status = Status.of(descriptor)
            if row.stamp == [status.stat.st_ino, status.stat.st_size, status.stat.st_mtime_ns]:
                return self._present(row, place, descriptor, started, RowState.COMPLETED)
            if self._if_exists is IfExists.FAIL:
                raise DuplicateNode(row.target)
            if not place.access.may_read(status) and not place.access.may_write(status):
                place.access.require_write(status, place.directory, descriptor, place.path)
            if self._if_exists is IfExists.VERIFY and _same(row, place, descriptor, status.stat.st_size):
                return self._present(row, place, descriptor, started, RowState.SKIPPED)
            place.access.require_write(status, place.directory, descriptor, place.path)
        finally:
            os.close(descriptor)
        return Target(row, place, entry, True, started)

    @staticmethod
    def holds(target: Target, fetched: Fetched) -> bool:
        """Return whether the existing file has the fetched bytes."""
        if not target.exists:
            return False
        try:
            descriptor = target.place.directory.open_file(target.place.name)
        except (Fault, OSError):
            return False
        try:
            if os.fstat(descriptor).st_size != fetched.size:
                return False
            found = _stored(target.place, descriptor)
            return Content(md5=fetched.md5).differs(found) is None
        finally:
            os.close(descriptor)

    @staticmethod
    def _present(row: Row, place: Located, descriptor: int, started: float, state: RowState) -> Finished:
        return Finished(row.index, state, started, _stored(place, descriptor).completed(row.expected))

    def _entry(self, path: Path) -> _Entry:
        entry = self._entries.get(path)
        if entry is not None and time.monotonic() - entry.since > MAX_AGE:
            del self._entries[path]
            entry.retire()
            entry = None
        if entry is None:
            self._space.ensure_container(self._caller, path)
            located = self._space.place(self._caller, (*path, "x"))
            may_create: Fault | None = None
            try:
                located.access.require_create(located.directory, located.name)
            except Fault as fault:
                may_create = fault
            entry = self._entries[path] = _Entry(located, may_create)
            if len(self._entries) > MAX_OPEN:
                self._retire()
        else:
            self._entries.move_to_end(path)
        return entry

    def _retire(self) -> None:
        self._entries.popitem(last=False)[1].retire()


def failed(row: Row, started: float, fault: Fault) -> Finished:
    return Finished(
        row.index,
        RowState.ERROR,
        started,
        fault=fault.name,
        detail=fault.detail or row.target,
        transient=fault.transient,
        away=fault.away,
    )


def _stored(place: Located, descriptor: int) -> Content:
    """Return the content of a data node, with the checksums that are stored with it."""
    found, status = place.directory.properties.read(descriptor)
    return Content(status.st_size, found.get(terms.MD5), found.get(terms.ADLER32))


def _same(row: Row, place: Located, descriptor: int, size: int) -> bool:
    """Return whether a file is the requested one; False without a checksum to compare."""
    expected = row.expected
    if not expected.has_checksum or expected.size not in (None, size):
        return False
    found = _stored(place, descriptor)
    if (expected.md5 is not None and found.md5 is None) or (
        expected.adler32 is not None and found.adler32 is None
    ):
        digester = Digester()
        position = 0
        while block := os.pread(descriptor, _BLOCK, position):
            digester.update(block)
            position += len(block)
        found = digester.content
    return expected.differs(found) is None
