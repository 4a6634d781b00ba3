"""Move and remove nodes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from vospace_client.terms import QUOTA

from vospace.models.caller import Caller
from vospace.models.errors import DuplicateNode, InvalidArgument, NodeNotFound, PermissionDenied
from vospace.models.uri import Path
from vospace.space.access import Rules, require_unlocked
from vospace.space.lookup import Located, Lookup
from vospace.space.quota import Quotas
from vospace.space.usage import Usage, measure
from vospace.storage.locks import Locks
from vospace.storage.staging import make_link, sweep
from vospace.storage.system_calls import rename_new
from vospace.storage.tree import Directory, Kind, Status, Tree, not_of


class Mover:
    """Moves and removes nodes."""

    def __init__(
        self, rules: Rules, tree: Tree, locks: Locks, usage: Usage, lookup: Lookup, quotas: Quotas
    ) -> None:
        self._rules = rules
        self._tree = tree
        self._locks = locks
        self._usage = usage
        self._lookup = lookup
        self._quotas = quotas

    def delete(self, caller: Caller, path: Path, *, sync: bool = True) -> None:
        """Remove a node; a link, not its target. Raises InvalidArgument for a container that is not empty."""
        if not path:
            raise PermissionDenied("the root cannot be deleted")
        with self._lookup.existing(caller, path) as place, self._locks.held((place.directory, place.name)):
            self._remove(place)
            if sync:
                place.directory.sync()
            self._quotas.forget(place)

    def move(self, caller: Caller, source: Path, final: Path) -> None:
        """Move a node, atomically, to exactly that path (see `destination`), which must not exist. The owner stays the
        same; moving a container requires write permission on everything in it. Raises DuplicateNode, NodeNotFound,
        PermissionDenied, NodeLocked, InvalidArgument."""
        if not source:
            raise PermissionDenied("the root cannot be moved")
        with (
            self._lookup.existing(caller, source) as old,
            self._lookup.locate(caller, final) as new,
            self._locks.held((old.directory, old.name), (new.directory, new.name)),
        ):
            self._require_outside(old.path, new.path)
            if new.kind is not None:
                raise DuplicateNode(self._rules.naming.uri(new.path))
            new.access.require_create(new.directory, new.name)
            with self._movable(old) as descriptor:
                if descriptor is None:
                    self._rename(old, new)
                else:
                    self._require_all_writable(old, descriptor)
                    with self._moved_bytes(old, new, descriptor):
                        self._rename(old, new)
            new.directory.sync()
            if old.directory.path != new.directory.path:
                old.directory.sync()
            self._quotas.forget(old)
            self._quotas.forget(new)
            self._usage.forget(old.path)
            self._usage.forget(new.path)

    def destination(self, caller: Caller, source: Path, wanted: Path, act: str = "move") -> Path:
        """Return the final path of a move or copy (`act`): below an existing container, or a new name. Raises
        DuplicateNode if that is taken, PermissionDenied, ContainerNotFound, InvalidArgument below the source itself."""
        if not source:
            raise PermissionDenied("the root cannot be moved")
        final: Path = (source[-1],)
        if wanted:
            with self._lookup.locate(caller, wanted, follow=True) as place:
                # A dangling link exists too.
                final = (*place.path, source[-1]) if place.kind is Kind.CONTAINER else wanted
        with self._lookup.locate(caller, final) as place:
            self._require_outside(source, place.path, act)
            if place.kind is not None:
                raise DuplicateNode(self._rules.naming.uri(place.path))
            place.access.require_create(place.directory, place.name)
            return place.path

    def _remove(self, place: Located) -> None:
        descriptor = place.directory.descriptor
        with self._movable(place) as opened:
            kind = None if opened is None else Status.of(opened).kind
            if opened is not None and kind is Kind.CONTAINER:
                with Directory(os.dup(opened), place.path, self._tree.properties) as container:
                    # What would be continued has no place any more.
                    sweep(self._locks, container, kept=0)
        try:
            with place.directory.taking_away(place.name):
                if kind is Kind.CONTAINER:
                    os.rmdir(place.name, dir_fd=descriptor)
                else:
                    os.unlink(place.name, dir_fd=descriptor)
        except FileNotFoundError:
            raise NodeNotFound(self._rules.naming.uri(place.path)) from None
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise InvalidArgument(f"container node '{place.name}' is not empty") from None
            raise

    @contextmanager
    def _movable(self, place: Located) -> Iterator[int | None]:
        """Return a descriptor of a node that may be removed from its container, None for nodes without properties, such
        as links. Raises PermissionDenied, NodeLocked, NodeNotFound."""
        access, directory = place.access, place.directory
        if place.kind not in (Kind.CONTAINER, Kind.DATA):
            found = directory.stat(place.name)
            if found is None:
                raise NodeNotFound(self._rules.naming.uri(place.path))
            access.require_remove(directory, place.path, Status.of_link(found), has_quota=False)
            yield None
            return
        with self._lookup.opened(place) as descriptor:
            limit = directory.properties.one(descriptor, QUOTA)
            access.require_remove(directory, place.path, Status.of(descriptor), has_quota=limit is not None)
            require_unlocked(directory, descriptor)
            yield descriptor

    @staticmethod
    def _require_outside(source: Path, target: Path, act: str = "move") -> None:
        """Raises with Cavern's wording, which clients compare."""
        if len(target) > len(source) and target[: len(source)] == source:
            raise InvalidArgument(
                f"Cannot {act} container node into its descendants:"
                f" source path /{'/'.join(source)} in resolved path /{'/'.join(target[:-1])}"
            )

    def _require_all_writable(self, place: Located, descriptor: int) -> None:
        """Raises PermissionDenied if a container contains nodes that the caller may not write. The administrator
        manages the root and the parents of allocations, and an allocation's owner may write everything in it."""
        access, uid = place.access, place.access.caller.uid
        if self._rules.administers(access.caller, place.directory.path):
            return
        if uid is None or access.allocation_uid == uid or place.kind is not Kind.CONTAINER:
            return
        for path, status in not_of(uid, descriptor, place.path):
            if not access.may_write(status):
                raise PermissionDenied(self._rules.naming.uri(path))

    @contextmanager
    def _moved_bytes(self, old: Located, new: Located, descriptor: int) -> Iterator[None]:
        """Reserve the moved bytes at the destination, if another quota applies there. Raises QuotaExceeded."""
        quota = self._quotas.of(new)
        if quota is None or quota == self._quotas.of(old):
            yield
            return
        container = old.kind is Kind.CONTAINER
        size = measure(descriptor) if container else os.fstat(descriptor).st_size
        self._usage.reserve(*quota, size)
        added = False
        try:
            yield
            added = True
        finally:
            self._usage.settle(quota[0], size, added=added)

    def _rename(self, old: Located, new: Located) -> None:
        try:
            if old.kind is Kind.LINK and old.directory.path != new.directory.path:
                self._relink(old, new)
            else:
                rename_new(
                    old.name,
                    new.name,
                    source_dir=old.directory.descriptor,
                    target_dir=new.directory.descriptor,
                )
        except FileExistsError:
            raise DuplicateNode(self._rules.naming.uri(new.path)) from None
        except FileNotFoundError:
            raise NodeNotFound(self._rules.naming.uri(old.path)) from None
        except OSError as error:
            if error.errno == errno.EINVAL:
                # the destination was moved below the source in the meantime
                self._require_outside(old.path, (*old.path, new.name))
            raise

    def _relink(self, old: Located, new: Located) -> None:
        """Recreate a moved link: it keeps its target and owner, so its relative text changes."""
        text = old.directory.link_text(old.name)
        found = os.stat(old.name, dir_fd=old.directory.descriptor, follow_symlinks=False)
        if not text.startswith("/"):
            text = self._tree.link_text(new.directory.path, self._tree.link_target(old.directory.path, text))
        make_link(self._locks, new.directory, new.name, text, (found.st_uid, found.st_gid))
        os.unlink(old.name, dir_fd=old.directory.descriptor)
