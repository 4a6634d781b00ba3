"""The space: find, read, create, change, move, copy and remove nodes on behalf of a caller.

All operations are synchronous and thread-safe; the event loop calls them by `asyncio.to_thread`, batches of files in
one thread. An operation raises a Fault of models/errors for a caller's error, and then leaves everything
unchanged.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from tempfile import TemporaryFile
from typing import IO

from vospace.config import Settings
from vospace.models.errors import Fault
from vospace.models.uri import Naming, Path, parse_path
from vospace.space.access import Rules
from vospace.space.copy import Copies
from vospace.space.create import Creator
from vospace.space.describe import Descriptions
from vospace.space.lookup import Lookup
from vospace.space.move import Mover
from vospace.space.quota import Quotas
from vospace.space.update import Updater
from vospace.space.usage import Usage
from vospace.space.walk import Walker
from vospace.space.write import Writer
from vospace.storage.attributes import Properties
from vospace.storage.locks import Locks
from vospace.storage.property_store import open_store
from vospace.storage.staging import sweep
from vospace.storage.tree import Kind, Tree, Walk

HOME: Path = ("home",)
logger = logging.getLogger(__name__)


def open_tree(settings: Settings) -> Tree:
    """Open the space's directory, created if missing. Raises ValueError if it cannot store properties as
    configured."""
    settings.root.mkdir(parents=True, exist_ok=True)
    where = settings.vospace_metadata
    try:
        return Tree(settings.root, Properties(open_store(where, settings.vospace_base_dir)))
    except ValueError as error:
        raise ValueError(f"vospace_metadata: {where} at {settings.root}: {error}") from None


class Space:
    """One VOSpace on one directory: creates its parts and offers their operations."""

    def __init__(self, settings: Settings) -> None:
        self.naming = Naming(settings.vospace_resource_id, settings.vospace_aliases)
        self.rules = _rules(settings, self.naming)
        self._root_ids = (settings.vospace_root_owner_uid, settings.vospace_root_owner_gid)
        self._base = settings.vospace_base_dir
        self.tree = open_tree(settings)
        self.usage = Usage(self._base, self.tree)
        self._locks = Locks(self._base)
        rules, tree, usage, locks = self.rules, self.tree, self.usage, self._locks

        lookup = Lookup(rules, tree, usage)
        self.locate = lookup.locate
        self.place = lookup.place
        self.resolve = lookup.resolve
        self.open = lookup.open
        self.stamp = lookup.stamp
        self.has_stamp = lookup.has_stamp

        descriptions = Descriptions(rules, tree, lookup)
        self.node = descriptions.node
        self.children = descriptions.children
        self.walk = Walker(rules, tree, lookup, descriptions).walk

        quotas = Quotas(rules, tree, usage)
        self.quota_left = quotas.left

        writer = Writer(rules, locks, usage, lookup, quotas)
        self.upload = writer.upload
        self.upload_at = writer.upload_at
        self.check_upload = writer.check_upload

        creator = Creator(rules, tree, usage, lookup, descriptions, writer)
        self.require_create = creator.require_create
        self.create_container = creator.create_container
        self.ensure_container = creator.ensure_container
        self.create_data = creator.create_data
        self.create_link = creator.create_link

        updater = Updater(rules, tree, locks, usage, lookup, descriptions)
        self.require_update = updater.require_update
        self.update = updater.update

        mover = Mover(rules, tree, locks, usage, lookup, quotas)
        self.delete = mover.delete
        self.move = mover.move
        self.destination = mover.destination

        copies = Copies(locks, lookup, descriptions, writer, creator)
        self.copy_container = copies.copy_container
        self.building = copies.building
        self.copy_link = copies.copy_link
        self.copy_file = copies.copy_file

        self._prepare_root()

    def close(self) -> None:
        self.tree.close()

    def _prepare_root(self) -> None:
        """Create the root and the allocation parents, owned by the root owner and public, so that users can reach their
        allocations; existing ones keep their permissions."""
        with self.tree.top() as top:
            os.fchown(top.descriptor, *self._root_ids)
            os.fchmod(top.descriptor, 0o775)
            for path in sorted(self.rules.allocation_parents):
                if len(path) != 1:
                    raise ValueError(
                        f"an allocation parent must be a top-level container, not /{'/'.join(path)}"
                    )
                try:
                    os.mkdir(path[0], 0o775, dir_fd=top.descriptor)
                except FileExistsError:
                    continue
                with top.open_directory(path[0]) as made:
                    os.fchown(made.descriptor, *self._root_ids)
                    os.fchmod(made.descriptor, 0o775)

    def spool(self) -> IO[bytes]:
        """Open a temporary file on the data volume, deleted when it is closed."""
        return TemporaryFile(dir=self._base)

    def sweep(self, stopped: Callable[[], bool]) -> int:
        """Remove staged files that dead processes left, until told to stop; return their number."""
        removed = 0
        pending: list[Path] = [()]
        while pending and not stopped():
            path = pending.pop()
            try:
                with Walk(self.tree, lambda _: None).container(path) as directory:
                    removed += sweep(self._locks, directory)
                    pending += [
                        (*path, name) for name in directory.names() if directory.kind(name) is Kind.CONTAINER
                    ]
            except (Fault, OSError) as error:  # moved or removed in the meantime
                logger.info("not swept: /%s: %s", "/".join(path), error)
        return removed


def _rules(settings: Settings, naming: Naming) -> Rules:
    parents = [parse_path(path) for path in settings.vospace_allocation_parents]
    return Rules(
        naming=naming,
        root_uid=settings.vospace_root_owner_uid,
        root_writers=frozenset(settings.vospace_root_writers),
        allocation_parents=frozenset(parents),
        home=HOME if HOME in parents else next(iter(parents), None),
        self_allocate=settings.vospace_self_allocate,
        self_allocate_groups=frozenset(settings.vospace_self_allocate_groups),
        default_quota=settings.vospace_default_quota_bytes,
    )
