"""Walk through containers."""

from __future__ import annotations

from collections.abc import Iterator

from vospace.models.caller import Caller
from vospace.models.errors import NodeNotFound, PermissionDenied
from vospace.models.uri import Path
from vospace.space.access import Access, Rules
from vospace.space.describe import Descriptions
from vospace.space.lookup import Lookup
from vospace.storage.tree import Kind, Tree, Walk


class Walker:
    """Lists all nodes below one in containers that the caller may read."""

    def __init__(self, rules: Rules, tree: Tree, lookup: Lookup, descriptions: Descriptions) -> None:
        self._rules = rules
        self._tree = tree
        self._lookup = lookup
        self._descriptions = descriptions

    def walk(self, caller: Caller, path: Path, *, bottom_up: bool = False) -> Iterator[tuple[Path, str]]:
        """Yield paths and kinds of a node and all below it, containers before or after their content. A link as the top
        is followed, others are not. Memory grows with depth and with the names of one container at a time. Unreadable
        containers are omitted."""
        real = self._lookup.resolve(caller, path)
        node = self._descriptions.node(caller, real)
        yield from self._walk(caller, node.path, node.kind, bottom_up)

    def _walk(self, caller: Caller, path: Path, kind: str, bottom_up: bool) -> Iterator[tuple[Path, str]]:
        if kind != Kind.CONTAINER:
            yield path, kind
            return
        # Containers on the path down, each with the names still to be visited.
        pending = [(path, self._below(caller, path))]
        if not bottom_up:
            yield path, kind
        while pending:
            here, found = pending[-1]
            for name, below in found:
                there = (*here, name)
                if below is not Kind.CONTAINER:
                    yield there, below.value
                    continue
                if not bottom_up:
                    yield there, below.value
                pending.append((there, self._below(caller, there)))
                break
            else:
                pending.pop()
                if bottom_up:
                    yield here, Kind.CONTAINER.value

    def _below(self, caller: Caller, path: Path) -> Iterator[tuple[str, Kind]]:
        """Return names and kinds of nodes in a container, none if it cannot be read."""
        try:
            with Walk(self._tree, Access(self._rules, caller)).container(path) as directory:
                found = [(name, directory.kind(name)) for name in sorted(directory.names())]
        except (PermissionDenied, NodeNotFound):
            found = []
        return iter([(name, kind) for name, kind in found if kind not in (None, Kind.OTHER)])
