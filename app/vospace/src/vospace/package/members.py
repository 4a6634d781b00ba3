"""Members of a package and their names in it."""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from vospace.models.caller import Caller
from vospace.models.errors import Fault, NodeNotFound
from vospace.models.uri import MAX_NAME, Path
from vospace.space.space import Space
from vospace.storage.tree import Kind

_LONGEST = 0xFFFF
"""Bytes of a member's name in a zip."""
_HARMFUL = re.compile(r"\\|(?<=^[A-Za-z]):|[\x00-\x1f\x7f-\x9f]")
"""On systems that interpret backslashes and drive letters, both lead to other directories."""
_LONGEST_SUFFIX = 16


@dataclass(frozen=True, slots=True)
class Member:
    """A node with its name in the package: a path with slashes that never leads upwards."""

    name: str
    path: Path
    kind: Kind
    modified: float = 0
    """Seconds since the epoch; for data nodes set when they are opened."""
    text: str = ""
    """Text of a link, relative to its own container in the package."""


class Names:
    """Paths of nodes in a package: unique, and none leads out of the directory in which it is unpacked."""

    def __init__(self, space: Space, caller: Caller, targets: list[Path]) -> None:
        """`targets`: requested nodes; unreachable and repeated ones are omitted."""
        self._space = space
        self._caller = caller
        self._given: defaultdict[Path, _Given] = defaultdict(_Given)
        self.tops: dict[Path, str] = {}
        """Names of the targets by their paths, links followed."""
        beside = _Given()
        for target in targets:
            with suppress(Fault):
                top = space.resolve(caller, target)
                if top not in self.tops:
                    self.tops[top] = beside.name(_harmless(top[-1]) if top else "root")

    def of(self, path: Path, top: Path) -> str:
        """Return the path in the package of a node below a target, or of the target itself."""
        steps = [self._step(path[:end]) for end in range(len(top) + 1, len(path) + 1)]
        return "/".join([self.tops[top], *steps])

    def link_text(self, link: Path, top: Path, target: Path) -> str | None:
        """Return the text of a link below `top` to that target in the package, None if the target is not in it."""
        for there in (top, *self.tops):
            if target[: len(there)] == there:
                return posixpath.relpath(self.of(target, there), posixpath.dirname(self.of(link, top)) or ".")
        return None

    def _step(self, path: Path) -> str:
        """Return the last name of the path; a harmful one is replaced by a unique name."""
        name = _harmless(path[-1])
        if name == path[-1]:
            return name
        container = path[:-1]
        return self._given[container].of(path[-1], lambda free: not self._exists((*container, free)))

    def _exists(self, path: Path) -> bool:
        try:
            self._space.node(self._caller, path)
        except NodeNotFound:
            return False
        except Fault:
            return True
        return True


class _Given:
    """Names assigned in one container of the package."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._numbers: dict[str, int] = {}
        self._changed: dict[str, str] = {}

    def of(self, original: str, free: Callable[[str], bool]) -> str:
        """Return the replacement of a harmful name, always the same."""
        if original not in self._changed:
            self._changed[original] = self.name(_harmless(original), free)
        return self._changed[original]

    def name(self, wanted: str, free: Callable[[str], bool] = lambda _: True) -> str:
        """Return the name, numbered if it is taken."""
        number = self._numbers.get(wanted, 0)
        while True:
            number += 1
            name = _numbered(wanted, number)
            if name not in self._taken and free(name):
                self._taken.add(name)
                self._numbers[wanted] = number
                return name


def members(space: Space, caller: Caller, targets: list[Path]) -> Iterator[Member]:
    """Yield all nodes that the caller may read, without missing ones and links that lead out of the package."""
    names = Names(space, caller, targets)
    for top in names.tops:
        with suppress(Fault):
            for path, kind in space.walk(caller, top):
                member = _member(space, caller, names, path, top, Kind(kind))
                # Zip allows no longer names, and one node must not break the package.
                if member is not None and len(member.name.encode()) < _LONGEST:
                    yield member


def _member(space: Space, caller: Caller, names: Names, path: Path, top: Path, kind: Kind) -> Member | None:
    name = names.of(path, top)
    if kind is Kind.DATA:
        return Member(name, path, kind)
    try:
        node = space.node(caller, path)
    except Fault:  # removed in the meantime
        return None
    modified = node.modified_ns / 1e9
    if kind is Kind.CONTAINER:
        return Member(name, path, kind, modified) if node.readable else None
    text = names.link_text(path, top, node.target) if isinstance(node.target, tuple) else None
    return None if text is None else Member(name, path, kind, modified, text)


def _harmless(name: str) -> str:
    return _HARMFUL.sub("_", name)


def _numbered(name: str, number: int) -> str:
    """`name` is the first, `name-2` the second; before a suffix, and no longer than a file's name may be."""
    if number == 1:
        return name
    stem, suffix = posixpath.splitext(name)
    if len(suffix.encode()) > _LONGEST_SUFFIX:
        stem, suffix = name, ""
    suffix = f"-{number}{suffix}"
    return stem.encode()[: MAX_NAME - len(suffix.encode())].decode(errors="ignore") + suffix
