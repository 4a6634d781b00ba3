"""Access control by uid, gid and ACL as the file system stores them, so that a mounted space grants the same."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from vospace_client import terms

from vospace.models.caller import Caller
from vospace.models.errors import NodeLocked, PermissionDenied
from vospace.models.sizes import byte_count
from vospace.models.uri import Naming, Path, check_new_name
from vospace.storage.posix_acl import READ, WRITE
from vospace.storage.tree import Directory, Kind, Status


@dataclass(frozen=True, slots=True)
class Rules:
    """Access rules configured by the deployment."""

    naming: Naming
    root_uid: int
    root_writers: frozenset[str]
    allocation_parents: frozenset[Path]
    home: Path | None
    """The container in which users may create their own allocation."""
    self_allocate: str
    self_allocate_groups: frozenset[str]
    default_quota: int

    def is_admin(self, caller: Caller) -> bool:
        return caller.uid == self.root_uid

    def is_shared(self, path: Path) -> bool:
        """Return whether each node of a container belongs to its own user: true for the root and allocation parents."""
        return not path or path in self.allocation_parents

    def administers(self, caller: Caller, container: Path) -> bool:
        """Return whether the caller is the administrator and manages the nodes of that container."""
        return self.is_admin(caller) and self.is_shared(container)


class Access:
    """Checks one caller's access to the containers on the path to a node; records the allocation and quota below."""

    def __init__(self, rules: Rules, caller: Caller) -> None:
        self.rules = rules
        self.caller = caller
        self.allocation_uid: int | None = None
        self.quota: tuple[Path, int] | None = None
        self.edition = 0
        """Edition of the quotas (`Usage.edition`) at which `quota` was found."""

    def __call__(self, directory: Directory) -> None:
        """Raises PermissionDenied for a container that the caller may not read."""
        self.note(directory)
        if directory.path and not self.may_read(directory.status):
            raise PermissionDenied(self.rules.naming.uri(directory.path))

    def note(self, directory: Directory) -> None:
        """Record the allocation and the quota that apply below a container."""
        path = directory.path
        if not path:
            self.allocation_uid = self.quota = None
            return
        if path[:-1] in self.rules.allocation_parents:
            self.allocation_uid = directory.status.stat.st_uid
        limit = directory.properties.one(directory.descriptor, terms.QUOTA)
        if limit is not None and (size := byte_count(limit)) is not None:
            self.quota = (path, size)

    def may_read(self, status: Status) -> bool:
        return status.public or self._is_owner(status) or bool(self._group_bits(status) & (READ | WRITE))

    def may_write(self, status: Status) -> bool:
        return self._is_owner(status) or bool(self._group_bits(status) & WRITE)

    def may_create_in(self, directory: Directory, name: str, *, container: bool = False) -> bool:
        """Return whether the caller may create a node, with `container` a container."""
        caller, rules = self.caller, self.rules
        if caller.anonymous:
            return False
        if rules.is_shared(directory.path) and rules.is_admin(caller):
            return True
        if not directory.path:
            # Quotas apply to containers, so nothing limits other nodes there.
            bound = container or not rules.default_quota
            return bound and not rules.root_writers.isdisjoint({"any", caller.username})
        if directory.path in rules.allocation_parents:
            return container and directory.path == rules.home and self._may_allocate(name)
        return self.may_write(directory.status)

    def require_create(self, directory: Directory, name: str, *, container: bool = False) -> None:
        """Raises PermissionDenied, NodeLocked, or InvalidURI for a name that no node may get."""
        check_new_name(name)
        if not self.may_create_in(directory, name, container=container):
            raise PermissionDenied(self.rules.naming.uri(directory.path))
        require_unlocked(directory, directory.descriptor)

    def require_remove(self, directory: Directory, path: Path, status: Status, *, has_quota: bool) -> None:
        """Raises PermissionDenied unless the caller may remove or move a node, and NodeLocked.

        That requires write permission on the node and its container. At the root and in the parents of allocations, as
        in a directory with the sticky bit, the caller must own the node. Only the administrator removes or moves
        allocations and nodes with a quota."""
        rules, admin = self.rules, self.rules.is_admin(self.caller)
        container = status.kind is Kind.CONTAINER
        if rules.is_shared(directory.path):
            allowed = admin or status.stat.st_uid == self.caller.uid
        else:
            allowed = self.may_write(directory.status) and self.may_write(status)
        if has_quota or (container and directory.path in rules.allocation_parents):
            allowed = allowed and admin
        if not allowed or path in rules.allocation_parents:
            raise PermissionDenied(rules.naming.uri(path))
        require_unlocked(directory, directory.descriptor)

    def require_write(self, status: Status, directory: Directory, descriptor: int, path: Path) -> None:
        """Raises PermissionDenied or NodeLocked; `descriptor` is open on a node in `directory`."""
        if not self.may_write(status):
            raise PermissionDenied(self.rules.naming.uri(path))
        require_unlocked(directory, descriptor)

    def _may_allocate(self, name: str) -> bool:
        if name != self.caller.username or self.rules.self_allocate == "none":
            return False
        return self.rules.self_allocate == "any" or _share(
            self.caller.groups, self.rules.self_allocate_groups
        )

    def _is_owner(self, status: Status) -> bool:
        return self.caller.owns(status.stat.st_uid, self.allocation_uid)

    def _group_bits(self, status: Status) -> int:
        gids = self.caller.gids
        if not gids:
            return 0
        bits = status.acl.group if status.stat.st_gid in gids else 0
        for gid, granted in status.acl.groups.items():
            if gid in gids:
                bits |= granted
        return bits


def require_unlocked(directory: Directory, descriptor: int) -> None:
    """Raises NodeLocked if a directory, or the node open in it, is locked."""
    if directory.properties.one(descriptor, terms.LOCKED) == "true":
        raise NodeLocked


def _share(one: Collection[str], other: Collection[str]) -> bool:
    return not set(one).isdisjoint(other)
