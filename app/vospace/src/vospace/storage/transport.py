"""Export and import of a space's properties as lines of JSON, for a different store or different file identities:
after a restore from an archive, and when the setting changes."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from vospace.models.errors import Fault
from vospace.models.uri import Path
from vospace.storage.identity import identity
from vospace.storage.property_store import Sidecar
from vospace.storage.tree import Directory, Kind, Tree, Walk

logger = logging.getLogger(__name__)
GRACE = 3600.0
"""Maximum seconds until a node that is being written gets its name."""


def export_lines(tree: Tree) -> Iterator[str]:
    """Yield a line for each node with properties: `path`, from the root of the space, and the stored `properties`."""
    for path, descriptor in _nodes(tree):
        kept = tree.properties.store.load(descriptor)
        if kept:
            values = {key: value.decode("utf-8", "replace") for key, value in sorted(kept.items())}
            yield json.dumps({"path": path, "properties": values}) + "\n"


def import_lines(tree: Tree, lines: Iterable[str]) -> tuple[int, int]:
    """Set the properties in lines of `export_lines`, in addition to existing ones; return how many nodes were changed
    and how many are missing. Raises ValueError that names a malformed line."""
    done = missing = 0
    for number, line in enumerate(lines, 1):
        path, properties = _read(number, line)
        try:
            with _open(tree, path) as descriptor:
                tree.properties.store.save(descriptor, properties)
            done += 1
        except (Fault, FileNotFoundError):
            missing += 1
    return done, missing


def prune(tree: Tree, store: Sidecar) -> int:
    """Remove the properties of nodes that were removed outside the service; return their number. Two scans ensure that
    nodes moved during the first one are found."""
    before = time.time() - GRACE
    alive: set[str] = set()
    for _ in range(2):
        alive.update(identity(descriptor) for _, descriptor in _nodes(tree))
    return store.prune(frozenset(alive), before)


def _read(number: int, line: str) -> tuple[Path, dict[str, bytes | None]]:
    try:
        entry: Any = json.loads(line)
        path, properties = entry["path"], entry["properties"]
        if not all(
            isinstance(name, str) and name not in ("", ".", "..") and "/" not in name for name in path
        ):
            raise TypeError
        return tuple(path), {key: value.encode("utf-8") for key, value in properties.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"line {number}: not a node's path and properties") from None


def _nodes(tree: Tree) -> Iterator[tuple[Path, int]]:
    """Yield paths of containers and data nodes with open descriptors, which the generator closes."""
    pending: list[Path] = [()]
    while pending:
        try:
            directory = _container(tree, pending.pop())
        except (Fault, OSError) as error:  # moved or removed meanwhile
            logger.info("left out: %s", error)
            continue
        with directory:
            yield directory.path, directory.descriptor
            for name in directory.names():
                kind = directory.kind(name)
                if kind is Kind.CONTAINER:
                    pending.append((*directory.path, name))
                elif kind is Kind.DATA:
                    try:
                        descriptor = directory.open_file(name)
                    except (Fault, OSError) as error:
                        logger.info("left out: %s: %s", name, error)
                        continue
                    try:
                        yield (*directory.path, name), descriptor
                    finally:
                        os.close(descriptor)


def _container(tree: Tree, path: Path) -> Directory:
    return Walk(tree, lambda _: None).container(path)


@contextmanager
def _open(tree: Tree, path: Path) -> Iterator[int]:
    if not path:
        with tree.top() as top:
            yield top.descriptor
        return
    with _container(tree, path[:-1]) as directory:
        if directory.kind(path[-1]) is Kind.CONTAINER:
            with directory.open_directory(path[-1]) as opened:
                yield opened.descriptor
            return
        descriptor = directory.open_file(path[-1])
        try:
            yield descriptor
        finally:
            os.close(descriptor)
