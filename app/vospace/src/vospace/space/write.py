"""Write data nodes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from vospace.models.caller import Caller, Ids
from vospace.models.errors import DuplicateNode, InvalidArgument, NodeNotFound
from vospace.models.uri import Path
from vospace.space.access import Rules
from vospace.space.lookup import Located, Lookup
from vospace.space.quota import Quotas
from vospace.space.usage import Usage
from vospace.storage.locks import Locks
from vospace.storage.staging import StagedFile
from vospace.storage.tree import Kind, Status

Condition = Callable[[os.stat_result | None], None]


class Upload:
    """A data node being written. Write to `descriptor`, then `commit`; `close` in any case."""

    def __init__(
        self,
        writer: Writer,
        place: Located,
        *,
        exists: bool,
        replace: bool,
        keep_properties: bool,
        require: Condition | None = None,
        owned: bool = True,
        kept: str | None = None,
    ) -> None:
        """`owned`: the directory is closed with the upload. `require` is called again when it is placed. `kept`: the
        key of a file that another process may have left (`StagedFile.keep`)."""
        self._keep_properties = keep_properties
        self._exists = exists
        self._owned = owned
        self._require = require
        self._reserved: tuple[Path, int] | None = None
        self._locks = writer.locks
        self._quotas = writer.quotas
        self._usage = writer.usage
        self._check = writer.check_upload
        self._place = place
        self._replace = replace
        self.quota_left = self._quotas.left(place)
        self._staged = StagedFile(place.directory, kept)
        self.keep = self._staged.keep
        self.forget_note = self._staged.forget_note

    @property
    def path(self) -> Path:
        return self._place.path

    @property
    def descriptor(self) -> int:
        return self._staged.descriptor

    @property
    def stamp(self) -> list[int]:
        return self._staged.stamp

    @property
    def note(self) -> bytes | None:
        """What is known of the bytes that the file has already, None for a new one."""
        return self._staged.note

    def check_quota(self, size: int) -> None:
        """Raise QuotaExceeded if a file of `size` bytes does not fit. It may have to count, so call it in a thread."""
        if self.quota_left is not None and size > self.quota_left:
            self.quota_left = self._quotas.left(self._place, size)

    def prepare(
        self, properties: Mapping[str, str | None], *, sync: bool = True, owner: Ids | None = None
    ) -> None:
        """Set owner (by default the caller) and properties (an existing node keeps its own), and make the bytes
        durable."""
        self.forget_note()
        if (quota := self._quotas.of(self._place)) is not None:
            size = os.fstat(self.descriptor).st_size
            self._usage.reserve(*quota, size)
            self._reserved = (quota[0], size)
        caller = self._place.access.caller
        if self._exists and self._staged.inherit(self._place.name, properties=self._keep_properties):
            self._place.directory.properties.write(self.descriptor, properties)
        else:
            self._staged.own(*(owner or caller.ids), properties)
        if sync:
            self._staged.sync()

    def place(self, *, replace: bool | None = None, sync: bool = True) -> None:
        """Make the node visible. Raises DuplicateNode if one exists that must not be replaced, and what `Writer.upload`
        raises if the existing one has changed since."""
        name = self._place.name
        with self._locks.held((self._place.directory, name)):
            kind = self._place.kind
            if self._require is not None:
                self._require(self._place.directory.stat(name))
            if not (self._replace if replace is None else replace):
                self._staged.place(name)
            else:
                if kind is not None or self._exists:
                    # The name may have been taken by another user's node since.
                    self._exists = self._check(self._place, replace=True)
                if kind is None:
                    self._staged.place(name)
                else:
                    if self._staged.inherit(name, properties=self._keep_properties):
                        self._staged.sync()
                    self._staged.replace(name)
        self._settle(added=True)
        if sync:
            self._place.directory.sync()

    def _settle(self, *, added: bool) -> None:
        if self._reserved is not None:
            self._usage.settle(*self._reserved, added=added)
            self._reserved = None

    def commit(self, properties: Mapping[str, str | None]) -> None:
        """`prepare` and `place`."""
        self.prepare(properties)
        self.place()

    def close(self, *, keep: bool = False) -> None:
        """Discard what was not placed; with *keep*, leave it to another process if it is kept."""
        self._staged.close(keep=keep)
        self._settle(added=False)
        if self._owned:
            self._place.directory.close()


class Writer:
    """Starts uploads of data nodes."""

    def __init__(self, rules: Rules, locks: Locks, usage: Usage, lookup: Lookup, quotas: Quotas) -> None:
        self._rules = rules
        self._lookup = lookup
        self.locks = locks
        self.quotas = quotas
        self.usage = usage

    def upload(
        self,
        caller: Caller,
        path: Path,
        *,
        replace: bool = True,
        keep_properties: bool = True,
        follow: bool = True,
        require: Condition | None = None,
        kept: str | None = None,
    ) -> Upload:
        """Start the upload of a data node, or, with `follow`, of the one that a link leads to. The containers above
        must exist; an existing node is replaced at the end, or rejected with DuplicateNode. `require`, called now and
        at the end, raises if the existing node, or its absence, is not as expected. Raises PermissionDenied,
        NodeLocked, QuotaExceeded, InvalidArgument (not a data node). `kept`: as for `Upload`."""
        if not path:
            raise InvalidArgument("the root is not a data node")
        place = self._lookup.place(caller, path, follow=follow)
        try:
            exists = self.check_upload(place, replace=replace)
            if require is not None:
                require(place.directory.stat(place.name))
            return Upload(
                self,
                place,
                exists=exists,
                replace=replace,
                keep_properties=keep_properties,
                require=require,
                kept=kept,
            )
        except BaseException:
            place.directory.close()
            raise

    def upload_at(self, place: Located, exists: bool, kept: str | None = None) -> Upload:
        """As `upload`, at a location that was checked and whose directory the caller closes."""
        return Upload(self, place, exists=exists, replace=True, keep_properties=False, owned=False, kept=kept)

    def check_upload(self, place: Located, *, replace: bool) -> bool:
        """Return whether a node would be replaced. Raises as `upload` does."""
        kind = place.kind
        if kind is Kind.DATA:
            if not replace:
                raise DuplicateNode(self._rules.naming.uri(place.path))
            try:
                with self._lookup.opened(place) as descriptor:
                    place.access.require_write(Status.of(descriptor), place.directory, descriptor, place.path)
                return True
            except NodeNotFound:
                # Removed in the meantime.
                kind = None
        if kind is not None:
            raise InvalidArgument(f"not a data node: {self._rules.naming.uri(place.path)}")
        place.access.require_create(place.directory, place.name)
        return False
