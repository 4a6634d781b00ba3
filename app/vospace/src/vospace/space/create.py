"""Create nodes."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace

from vospace_client.terms import QUOTA

from vospace.models.caller import Caller, Ids
from vospace.models.errors import ContainerNotFound, DuplicateNode, PermissionDenied
from vospace.models.node import Change, Node
from vospace.models.uri import Path
from vospace.space.access import Access, Rules
from vospace.space.describe import Descriptions
from vospace.space.lookup import Located, Lookup
from vospace.space.update import apply
from vospace.space.usage import Usage
from vospace.space.write import Writer
from vospace.storage import attributes
from vospace.storage.staging import make_link
from vospace.storage.system_calls import rename_new
from vospace.storage.tree import Kind, Tree, Walk, make_directory


class Creator:
    """Creates containers, data nodes and links."""

    def __init__(
        self,
        rules: Rules,
        tree: Tree,
        usage: Usage,
        lookup: Lookup,
        descriptions: Descriptions,
        writer: Writer,
    ) -> None:
        self._locks = writer.locks
        self._rules = rules
        self._tree = tree
        self._usage = usage
        self._lookup = lookup
        self._descriptions = descriptions
        self._writer = writer

    def require_create(self, caller: Caller, path: Path, *, container: bool) -> None:
        """Raises the error that creating a node at that path would raise."""
        if not path:
            raise DuplicateNode(self._rules.naming.root)
        with self._lookup.locate(caller, path) as place:
            if place.kind is not None:
                raise DuplicateNode(self._rules.naming.uri(path))
            place.access.require_create(place.directory, place.name, container=container)

    def create_container(
        self, caller: Caller, path: Path, change: Change | None = None, owner: Ids | None = None
    ) -> Node:
        """Create a container. `owner`: uid and gid of another user, which only the root owner may set. Raises
        DuplicateNode, ContainerNotFound, PermissionDenied."""
        change = change or Change()
        if not path:
            raise DuplicateNode(self._rules.naming.root)
        with self._lookup.locate(caller, path) as place:
            if place.kind is not None:
                raise DuplicateNode(self._rules.naming.uri(path))
            place.access.require_create(place.directory, place.name, container=True)
            self._require_admin(caller, owner)
            above, quota = place.directory.path, self._rules.default_quota
            bound = above in self._rules.allocation_parents or (
                not above and not self._rules.is_admin(caller)
            )
            if bound and quota and QUOTA not in change.properties:
                change = replace(change, properties={**change.properties, QUOTA: str(quota)})
            self._build(place, owner or caller.ids, change)
            place.directory.sync()
            if change.properties.get(QUOTA) is not None:
                self._usage.changed(place.path)
            return self._descriptions.describe(place)

    def ensure_container(self, caller: Caller, path: Path) -> None:
        """Create the container and its missing parents, all owned by the caller."""
        missing: list[Path] = []
        while path:
            try:
                access = Access(self._rules, caller)
                Walk(self._tree, access).container(path).close()
                break
            except ContainerNotFound:
                missing.append(path)
                path = path[:-1]
        for wanted in reversed(missing):
            try:
                self.create_container(caller, wanted)
            except DuplicateNode:
                with self._lookup.locate(caller, wanted, follow=True) as place:
                    if place.kind is not Kind.CONTAINER:
                        raise ContainerNotFound(self._rules.naming.uri(wanted)) from None

    def create_data(
        self, caller: Caller, path: Path, change: Change | None = None, owner: Ids | None = None
    ) -> Node:
        """Create an empty data node. `owner` as for a container. Raises DuplicateNode."""
        self._require_admin(caller, owner)
        with self._lookup.locate(caller, path) as place:
            if place.kind is not None:
                raise DuplicateNode(self._rules.naming.uri(path))
        upload = self._writer.upload(caller, path, replace=False, follow=False)
        try:
            upload.prepare(attributes.OF_EMPTY, sync=False, owner=owner)
            apply(self._tree.properties, upload.descriptor, change or Change())
            os.fsync(upload.descriptor)
            upload.place()
        finally:
            upload.close()
        return self._descriptions.node(caller, path)

    def create_link(self, caller: Caller, path: Path, target: Path | str, owner: Ids | None = None) -> Node:
        """Create a link to a path of this space, which need not exist, or to an absolute path in the file system of
        hosts that mount the space; the service itself never follows the latter. `owner` as for a container."""
        self._require_admin(caller, owner)
        if not path:
            raise DuplicateNode(self._rules.naming.root)
        with self._lookup.locate(caller, path) as place:
            if place.kind is not None:
                raise DuplicateNode(self._rules.naming.uri(path))
            place.access.require_create(place.directory, place.name)
            text = target if isinstance(target, str) else self._tree.link_text(place.directory.path, target)
            try:
                with self._locks.held((place.directory, place.name)):
                    make_link(self._locks, place.directory, place.name, text, owner or caller.ids)
            except FileExistsError:
                raise DuplicateNode(self._rules.naming.uri(path)) from None
            place.directory.sync()
            return self._descriptions.describe(place)

    def _require_admin(self, caller: Caller, owner: Ids | None) -> None:
        if owner is not None and not self._rules.is_admin(caller):
            raise PermissionDenied("only the root owner creates nodes for others")

    def _build(self, place: Located, owner: Ids, change: Change) -> None:
        """Create a directory that has its owner and all properties as soon as it is visible."""
        parent = place.directory
        with self._locks.building() as temporary:
            try:
                with make_directory(parent, temporary) as made:
                    os.fchown(made.descriptor, *owner)
                    apply(self._tree.properties, made.descriptor, change)
                with self._locks.held((parent, place.name)):
                    rename_new(
                        temporary, place.name, source_dir=parent.descriptor, target_dir=parent.descriptor
                    )
            except BaseException as error:
                with suppress(FileNotFoundError), parent.taking_away(temporary):
                    os.rmdir(temporary, dir_fd=parent.descriptor)
                if isinstance(error, FileExistsError):
                    raise DuplicateNode(self._rules.naming.uri(place.path)) from None
                raise
