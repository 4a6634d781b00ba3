"""Change properties and permissions of nodes."""

from __future__ import annotations

import os

from vospace_client.terms import QUOTA

from vospace.models.caller import Caller
from vospace.models.errors import InvalidArgument, PermissionDenied
from vospace.models.node import Change, Node
from vospace.models.uri import Path
from vospace.space.access import Rules
from vospace.space.describe import Descriptions
from vospace.space.lookup import Lookup
from vospace.space.permissions import acl_for
from vospace.space.usage import Usage
from vospace.storage import posix_acl
from vospace.storage.attributes import Properties
from vospace.storage.locks import Locks
from vospace.storage.tree import Kind, Status, Tree


def apply(properties: Properties, descriptor: int, change: Change) -> None:
    """Change an open node: its properties, stored in `properties`, and its permissions."""
    properties.write(descriptor, change.properties)
    if (change.public, change.read_gids, change.write_gids, change.inherits) == (None,) * 4:
        return
    status = Status.of(descriptor)
    acl = acl_for(status, change)
    os.fchmod(descriptor, acl.mode)
    if acl.groups:
        posix_acl.write(descriptor, posix_acl.ACCESS, acl)
    else:
        posix_acl.remove(descriptor, posix_acl.ACCESS)
        os.fchmod(descriptor, acl.mode)
    if status.kind is Kind.CONTAINER:
        inherits = change.inherits
        if inherits is None:
            inherits = _has(descriptor, posix_acl.DEFAULT)
        if inherits:
            posix_acl.write(descriptor, posix_acl.DEFAULT, acl)
        else:
            posix_acl.remove(descriptor, posix_acl.DEFAULT)


class Updater:
    """Changes existing nodes."""

    def __init__(
        self, rules: Rules, tree: Tree, locks: Locks, usage: Usage, lookup: Lookup, descriptions: Descriptions
    ) -> None:
        self._rules = rules
        self._tree = tree
        self._locks = locks
        self._usage = usage
        self._lookup = lookup
        self._descriptions = descriptions

    def require_update(self, caller: Caller, path: Path, *, follow: bool = False) -> None:
        """Raises the error that changing that node would raise."""
        node = self._descriptions.node(caller, path, follow=follow)
        if not node.writable and not self._rules.administers(caller, node.path[:-1]):
            raise PermissionDenied(self._rules.naming.uri(path))

    def update(self, caller: Caller, path: Path, change: Change) -> Node:
        """Change a container or data node, even if locked, as Cavern does. Raises PermissionDenied, NodeNotFound."""
        if not path:
            if not self._rules.is_admin(caller):
                raise PermissionDenied(self._rules.naming.root)
            with self._tree.top() as top:
                apply(self._tree.properties, top.descriptor, change)
            return self._descriptions.node(caller, path)
        with self._lookup.existing(caller, path) as place:
            if place.kind is Kind.LINK:
                if change != Change():
                    raise InvalidArgument("a link has no properties to change")
                return self._descriptions.describe(place)
            with self._locks.held((place.directory, place.name)), self._lookup.opened(place) as descriptor:
                status = Status.of(descriptor)
                above = place.directory.path
                if above in self._rules.allocation_parents:
                    place.access.allocation_uid = status.stat.st_uid
                if not (place.access.may_write(status) or self._rules.administers(caller, above)):
                    raise PermissionDenied(self._rules.naming.uri(path))
                if QUOTA in change.properties and not self._rules.is_admin(caller):
                    raise PermissionDenied("only the root owner sets a quota")
                apply(self._tree.properties, descriptor, change)
                os.fsync(descriptor)
                if QUOTA in change.properties:
                    self._usage.changed(place.path)
            return self._descriptions.describe(place)


def _has(descriptor: int, name: str) -> bool:
    try:
        return bool(os.getxattr(descriptor, name))
    except OSError:
        return False
