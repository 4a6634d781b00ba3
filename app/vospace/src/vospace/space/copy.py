"""Copy nodes, one at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vospace_client import terms
from vospace_client.terms import QUOTA

from vospace.models.caller import Caller
from vospace.models.node import Change
from vospace.models.uri import Path
from vospace.space.create import Creator
from vospace.space.describe import Descriptions
from vospace.space.lookup import Lookup
from vospace.space.write import Upload, Writer
from vospace.storage.locks import Locks
from vospace.storage.staging import sweep

COPY_BLOCK = 8 << 20


class Copies:
    """Copies nodes with their properties; the copies are the caller's."""

    def __init__(
        self, locks: Locks, lookup: Lookup, descriptions: Descriptions, writer: Writer, creator: Creator
    ) -> None:
        self._locks = locks
        self._lookup = lookup
        self._descriptions = descriptions
        self._writer = writer
        self._creator = creator

    def copy_container(self, caller: Caller, source: Path, target: Path) -> None:
        """Create an empty container with the properties of another."""
        node = self._descriptions.node(caller, source)
        kept = {key: value for key, value in node.properties.items() if key not in (QUOTA, terms.LOCKED)}
        self._creator.create_container(caller, target, Change(properties=kept))

    @contextmanager
    def building(self, caller: Caller, target: Path) -> Iterator[Path]:
        """Yield a path under a reserved name beside *target*, for a copy that is built there in the block. What copies
        of dead processes left there is removed, as this one is if the process dies in the block."""
        with self._lookup.locate(caller, target) as place:
            sweep(self._locks, place.directory)
            with self._locks.building("copy-") as name:
                yield (*place.path[:-1], name)

    def copy_link(self, caller: Caller, source: Path, target: Path) -> None:
        """Create a link to the same target; links that lead out of the space are omitted."""
        node = self._descriptions.node(caller, source)
        if isinstance(node.target, tuple):
            self._creator.create_link(caller, target, node.target)

    def copy_file(
        self, caller: Caller, source: Path, target: Path, cancelled: Callable[[], bool]
    ) -> Upload | None:
        """Stage a copy of a data node with its properties, for the caller to `place`; None if `cancelled()` became
        true."""
        opened = self._lookup.open(caller, source)
        try:
            upload = self._writer.upload(caller, target, replace=False)
            try:
                size = opened.status.stat.st_size
                upload.check_quota(size)
                done = 0
                while done < size:
                    if cancelled():
                        upload.close()
                        return None
                    count = os.copy_file_range(
                        opened.descriptor, upload.descriptor, min(COPY_BLOCK, size - done)
                    )
                    if count == 0:
                        break
                    done += count
                upload.prepare({k: v for k, v in opened.properties.items() if k != terms.LOCKED})
                return upload
            except BaseException:
                upload.close()
                raise
        finally:
            os.close(opened.descriptor)
