"""A node as a client sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vospace.models.uri import Path


@dataclass(frozen=True, slots=True)
class Node:
    """`kind` is ContainerNode, DataNode or LinkNode; owner and groups are uid and gids, named by services/identities.

    `properties` are the stored ones by URI; attributes of the file system have their own fields. `target` is the path
    that a link leads to, or the text of a link that leads out of the space."""

    path: Path
    kind: str
    uid: int
    length: int
    modified_ns: int
    public: bool
    read_gids: frozenset[int] = frozenset()
    write_gids: frozenset[int] = frozenset()
    inherits: bool = False
    properties: Mapping[str, str] = field(default_factory=dict)
    target: Path | str | None = None
    readable: bool = False
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a node; None leaves a field as it is. A property of None is removed."""

    public: bool | None = None
    read_gids: frozenset[int] | None = None
    write_gids: frozenset[int] | None = None
    inherits: bool | None = None
    properties: Mapping[str, str | None] = field(default_factory=dict)
