"""Describe nodes to a caller."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace

from vospace.models.caller import Caller
from vospace.models.errors import ExternalLink, NodeNotFound, TypeNotSupported
from vospace.models.node import Node
from vospace.models.uri import Path
from vospace.space.access import Access, Rules
from vospace.space.lookup import Located, Lookup
from vospace.space.permissions import readers, writers
from vospace.storage.tree import Directory, Kind, Status, Tree, Walk


class Descriptions:
    """Descriptions of nodes, including the caller's permissions."""

    def __init__(self, rules: Rules, tree: Tree, lookup: Lookup) -> None:
        self._rules = rules
        self._tree = tree
        self._lookup = lookup

    def node(self, caller: Caller, path: Path, *, follow: bool = False) -> Node:
        """Raises NodeNotFound."""
        if not path:
            with self._tree.top() as top:
                return self._describe_directory(top, Access(self._rules, caller))
        with self._lookup.existing(caller, path, follow=follow) as place:
            return self.describe(place)

    def children(
        self, caller: Caller, path: Path, start: str | None = None, limit: int | None = None
    ) -> Iterator[Node]:
        """Yield nodes of a container by name, from `start` on (inclusive). Raises PermissionDenied without read
        permission on the container."""
        access = Access(self._rules, caller)
        with Walk(self._tree, access).container(path) as directory:
            names = sorted(directory.names())
            allocation, quota = access.allocation_uid, access.quota
            count = 0
            for name in names:
                if start is not None and name < start:
                    continue
                if limit is not None and count >= limit:
                    return
                access.allocation_uid, access.quota = allocation, quota
                try:
                    node = self.describe(Located(directory, name, access))
                except (NodeNotFound, TypeNotSupported):
                    continue
                count += 1
                yield node

    def describe(self, place: Located) -> Node:
        with self._lookup.found(place):
            return self._describe(place)

    def _describe(self, place: Located) -> Node:
        directory, name = place.directory, place.name
        match place.kind:
            case Kind.CONTAINER:
                with directory.open_directory(name) as opened:
                    if opened.path[:-1] in self._rules.allocation_parents:
                        place.access.allocation_uid = opened.status.stat.st_uid
                    return self._describe_directory(opened, place.access)
            case Kind.DATA:
                file = self._lookup.open_data(place)
                try:
                    return self._describe_open(place.path, file.status, place.access, file.properties)
                finally:
                    os.close(file.descriptor)
            case Kind.LINK:
                return self._describe_link(place)
            case Kind.OTHER:
                raise TypeNotSupported(self._rules.naming.uri(place.path))
        raise NodeNotFound(self._rules.naming.uri(place.path))

    def _describe_directory(self, directory: Directory, access: Access) -> Node:
        default = directory.default_acl
        properties, _ = self._tree.properties.read(directory.descriptor)
        node = self._describe_open(directory.path, directory.status, access, properties)
        if not directory.path:
            writable = not access.caller.anonymous and access.may_create_in(directory, "", container=True)
            return replace(node, public=True, readable=True, writable=writable)
        return replace(node, inherits=default is not None)

    def _describe_open(
        self, path: Path, status: Status, access: Access, properties: Mapping[str, str]
    ) -> Node:
        return Node(
            path=path,
            kind=status.kind.value,
            uid=status.stat.st_uid,
            length=status.stat.st_size,
            modified_ns=status.stat.st_mtime_ns,
            public=status.public,
            read_gids=readers(status.acl),
            write_gids=writers(status.acl),
            properties=properties,
            readable=access.may_read(status),
            writable=access.may_write(status),
        )

    def _describe_link(self, place: Located) -> Node:
        found = place.directory.stat(place.name)
        if found is None:
            raise NodeNotFound(self._rules.naming.uri(place.path))
        text = place.directory.link_text(place.name)
        target: Path | str
        try:
            target = self._tree.link_target(place.directory.path, text)
        except ExternalLink:  # shown as it is
            target = text
        return Node(
            path=place.path,
            kind=Kind.LINK.value,
            uid=found.st_uid,
            length=0,
            modified_ns=found.st_mtime_ns,
            public=True,
            target=target,
            readable=True,
            writable=place.access.may_write(Status.of_link(found)),
        )
