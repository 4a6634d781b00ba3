"""Whatever somebody does, what belongs to another and is not his to write stays as it was.

The rights that count here are worked out of owners and access control lists anew, without the service's own code.
"""

from __future__ import annotations

import os
import stat
import struct
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path as FilePath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from vospace.models.caller import Caller
from vospace.models.errors import DuplicateNode, Fault, NodeNotFound, PermissionDenied
from vospace.models.node import Change
from vospace.models.uri import Path
from vospace.space.space import Space

TEAM = 900_001
ADMIN = Caller("cavernadmin", 9999, 9999, frozenset({9999}), frozenset(), "token")
ADA = Caller("ada", 10_001, 10_001, frozenset({10_001, TEAM}), frozenset(), "token")
BOB = Caller("bob", 10_002, 10_002, frozenset({10_002, TEAM}), frozenset(), "token")
EVE = Caller("eve", 10_003, 10_003, frozenset({10_003}), frozenset(), "token")
OPEN = Change(write_gids=frozenset({TEAM}))


# Rights, from what is on disk.


@dataclass(frozen=True)
class Found:
    """A node as it lies on disk."""

    inode: int
    kind: int
    uid: int
    mode: int
    attributes: dict[str, bytes]
    content: bytes
    children: frozenset[str]
    allocation_uid: int | None

    def writable(self, uid: int, gids: frozenset[int]) -> bool:
        if uid in (self.uid, self.allocation_uid):
            return True
        if self.kind == stat.S_IFLNK:
            return False
        granted, mask = set[int](), 7
        raw = self.attributes.get("system.posix_acl_access", b"\0\0\0\0")
        for tag, permissions, qualifier in struct.iter_unpack("<HHI", raw[4:]):
            if tag == 0x10:
                mask = permissions
            elif tag == 0x08 and permissions & 2:
                granted.add(qualifier)
        return bool(mask & 2 and granted & gids)


def everything(root: FilePath) -> dict[Path, Found]:
    found: dict[Path, Found] = {}
    for top, directories, files in os.walk(root):
        for name in directories + files:
            file = FilePath(top) / name
            path = file.relative_to(root).parts
            status = file.lstat()
            kind = stat.S_IFMT(status.st_mode)
            parent = found.get(path[:2])
            allocation = parent.uid if parent and path[0] in ("home", "projects") and len(path) > 2 else None
            if len(path) == 2 and path[0] in ("home", "projects") and kind == stat.S_IFDIR:
                allocation = status.st_uid
            names = [] if kind == stat.S_IFLNK else os.listxattr(file)
            found[path] = Found(
                status.st_ino,
                kind,
                status.st_uid,
                status.st_mode,
                {key: os.getxattr(file, key) for key in names},
                os.readlink(file).encode()
                if kind == stat.S_IFLNK
                else file.read_bytes()
                if kind == stat.S_IFREG
                else b"",
                frozenset(os.listdir(file)) if kind == stat.S_IFDIR else frozenset(),
                allocation,
            )
    return found


# What users do.

TOPS: list[Path] = [("shared",), ("home", "ada"), ("home", "bob"), ("projects", "p"), ("shared", "d")]
PATHS = st.one_of(
    st.sampled_from([(), ("home",), ("projects",), ("new",), ("home", "eve"), ("projects", "eve"), *TOPS]),
    st.builds(
        lambda top, below: (*top, *below),
        st.sampled_from(TOPS),
        st.lists(st.sampled_from(["a", "b", "private", "link"]), min_size=1, max_size=2),
    ),
)
CHANGES = st.sampled_from(
    [
        Change(),
        OPEN,
        Change(write_gids=frozenset()),
        Change(public=True),
        Change(read_gids=frozenset({TEAM}), inherits=True),
        Change(write_gids=frozenset({TEAM}), inherits=True),
        Change(properties={"note": "x"}),
        Change(properties={"ivo://cadc.nrc.ca/vospace/core#islocked": "true"}),
    ]
)


def put(space: Space, who: Caller, path: Path, content: bytes, *, follow: bool = False) -> None:
    upload = space.upload(who, path, follow=follow)
    try:
        os.write(upload.descriptor, content)
        upload.commit({})
    finally:
        upload.close()


def remove_tree(space: Space, who: Caller, path: Path) -> None:
    for below, _ in list(space.walk(who, path, bottom_up=True)):
        with suppress(Fault):
            space.delete(who, below)


def change_tree(space: Space, who: Caller, path: Path, change: Change) -> None:
    for below, kind in list(space.walk(who, path)):
        with suppress(Fault):
            if kind == "ContainerNode":
                space.update(who, below, change)
            elif kind == "DataNode":
                space.update(who, below, Change(change.public, change.read_gids, change.write_gids))


def move(space: Space, who: Caller, source: Path, wanted: Path) -> None:
    space.move(who, source, space.destination(who, source, wanted))


def copy(space: Space, who: Caller, source: Path, wanted: Path) -> None:
    final = space.destination(who, source, wanted, "copy")
    node = space.node(who, source, follow=True)
    if node.kind == "ContainerNode":
        space.copy_container(who, source, final)
    elif (upload := space.copy_file(who, source, final, lambda: False)) is not None:
        try:
            upload.place()
        finally:
            upload.close()


OPERATIONS = {
    "container": lambda s, who, a, b, change: s.create_container(who, a, change),
    "ensure": lambda s, who, a, b, change: s.ensure_container(who, a),
    "file": lambda s, who, a, b, change: s.create_data(who, a, change),
    "put": lambda s, who, a, b, change: put(s, who, a, b"by " + str(who.username).encode()),
    "put through": lambda s, who, a, b, change: put(s, who, a, b"through", follow=True),
    "link": lambda s, who, a, b, change: s.create_link(who, a, b),
    "delete": lambda s, who, a, b, change: s.delete(who, a),
    "delete tree": lambda s, who, a, b, change: remove_tree(s, who, a),
    "move": lambda s, who, a, b, change: move(s, who, a, b),
    "copy": lambda s, who, a, b, change: copy(s, who, a, b),
    "change": lambda s, who, a, b, change: s.update(who, a, change),
    "change tree": lambda s, who, a, b, change: change_tree(s, who, a, change),
}
STEP = st.tuples(st.sampled_from([ADA, BOB, EVE]), st.sampled_from(sorted(OPERATIONS)), PATHS, PATHS, CHANGES)


def furnish(space: Space) -> None:
    """Shared containers, areas of their own, and something private in each."""
    for path, owner in ((("shared",), ADA), (("projects", "p"), ADA)):
        space.create_container(ADMIN, path, OPEN, owner.ids)
    for who in (ADA, BOB):
        space.create_container(who, ("home", str(who.username)), Change(public=True))
    space.create_container(ADA, ("shared", "d"), OPEN)
    for top in (("shared",), ("shared", "d"), ("projects", "p"), ("home", "ada")):
        put(space, ADA, (*top, "private"), b"ada's")
        space.create_link(ADA, (*top, "link"), ("home", "ada", "private"))
    put(space, BOB, ("shared", "b"), b"bob's")
    put(space, BOB, ("projects", "p", "b"), b"bob's")


@given(steps=st.lists(STEP, min_size=1, max_size=12))
@example(steps=[(BOB, "move", ("shared", "private"), ("home", "bob"), Change())])
@example(steps=[(BOB, "move", ("shared", "d"), ("home", "bob"), Change())])
@example(steps=[(BOB, "move", ("shared", "link"), ("shared", "a"), Change())])
@example(steps=[(BOB, "delete", ("projects", "p", "private"), (), Change())])
@example(steps=[(ADA, "move", ("shared", "b"), ("home", "ada"), Change())])
@example(steps=[(BOB, "move", ("home",), ("home", "bob", "a"), Change())])
@example(steps=[(EVE, "container", ("projects", "eve"), (), Change())])
def test_nobody_changes_what_is_anothers(new_space, steps):
    space = new_space()
    furnish(space)
    root = space.tree.root
    for who, name, one, other, change in steps:
        before = everything(root)
        with suppress(Fault):
            OPERATIONS[name](space, who, one, other, change)
        after = everything(root)
        owners = {found.inode: found.uid for found in before.values()}
        for path, found in before.items():
            if not found.writable(who.uid, who.gids):
                own = {who.username} if path == ("home",) else set()  # an area for who has none yet
                assert path in after, (who.username, name, one, other, path)
                seen = replace(after[path], children=after[path].children - own)
                assert seen == replace(found, children=found.children - own), (who.username, name, one, path)
        for path, found in after.items():
            # Nothing ever becomes the mover's, and what is new is whose who made it.
            assert found.uid == owners.get(found.inode, found.uid), (name, path)
            new = path not in before and found.inode not in owners
            if new and (name, found.kind) != ("move", stat.S_IFLNK):
                assert found.uid == who.uid, (name, path)
        assert {("home",), ("projects",)} < after.keys()
        assert not any(part.startswith(".vospace-") for path in after for part in path)


# What is at the root and in the parents of allocations.


def test_the_root_is_the_administrators(new_space):
    space = new_space()
    for act in (space.create_container, space.create_data):
        with pytest.raises(PermissionDenied):
            act(ADA, (act.__name__,))
        act(ADMIN, (act.__name__,))
    with pytest.raises(PermissionDenied):
        space.create_link(ADA, ("l",), ("home",))
    with pytest.raises(PermissionDenied):
        put(space, ADA, ("f",), b"x")
    space.create_container(ADA, ("home", "ada"))
    space.create_container(ADA, ("home", "ada", "box"))
    for source in (("home", "ada"), ("home", "ada", "box")):
        for wanted in ((), ("new",), ("projects",), ("projects", "ada"), ("home", "new")):
            with pytest.raises((PermissionDenied, DuplicateNode)):
                move(space, ADA, source, wanted)
            with pytest.raises((PermissionDenied, DuplicateNode)):
                copy(space, ADA, source, wanted)
    assert space.node(ADA, ("home", "ada", "box")).uid == ADA.uid


def test_parents_of_allocations_stay(new_space):
    space = new_space(vospace_root_writers=["any"])
    for who in (ADMIN, ADA):
        for parent in (("home",), ("projects",)):
            with pytest.raises(PermissionDenied):
                space.delete(who, parent)
            with pytest.raises(PermissionDenied):
                space.move(who, parent, ("elsewhere",))


def test_at_the_top_one_moves_and_removes_what_is_ones_own(new_space):
    """As with the sticky bit of a directory, whatever a group may write there."""
    space = new_space(vospace_root_writers=["any"])
    for name in ("one", "two"):
        space.create_container(ADA, (name,), OPEN)
    put(space, ADA, ("file",), b"x")
    space.update(ADA, ("file",), OPEN)
    space.create_link(ADA, ("link",), ("one",))
    space.create_container(BOB, ("home", "bob"))
    put(space, BOB, ("one", "his"), b"bob's")
    for name in ("one", "two", "file", "link"):
        for who in (BOB, EVE):
            with pytest.raises(PermissionDenied):
                space.delete(who, (name,))
            for wanted in (("home", "bob", name), (f"new-{name}",)):
                with pytest.raises(PermissionDenied):
                    space.move(who, (name,), wanted)
    put(space, BOB, ("file",), b"a member may write it")
    space.move(ADMIN, ("one",), ("renamed",))
    assert space.node(ADA, ("renamed",)).uid == ADA.uid
    assert space.node(ADA, ("renamed", "his")).uid == BOB.uid
    for name in ("two", "file", "link"):
        space.move(ADA, (name,), (f"new-{name}",))
        assert space.node(ADA, (f"new-{name}",)).uid == ADA.uid
        space.delete(ADA, (f"new-{name}",))
    with pytest.raises(PermissionDenied):  # bob's file in it is not hers to write
        space.move(ADA, ("renamed",), ("one",))


def test_an_owner_removes_the_own_node_of_a_closed_root(new_space):
    """Made by the administrator, or when more might write there."""
    space = new_space()
    space.create_container(ADMIN, ("given",), owner=ADA.ids)
    with pytest.raises(PermissionDenied):
        space.move(ADA, ("given",), ("renamed",))
    space.delete(ADA, ("given",))


def test_a_move_of_a_link_keeps_its_owner_and_its_target(new_space):
    space = new_space()
    furnish(space)
    space.move(ADA, ("projects", "p", "link"), ("home", "ada", "moved"))
    assert (space.tree.root / "home/ada/moved").lstat().st_uid == ADA.uid
    space.create_link(BOB, ("projects", "p", "his"), ("home", "bob"))
    space.move(
        ADA, ("projects", "p", "his"), ("home", "ada", "his")
    )  # hers to write, as owner of the allocation
    found = space.node(ADA, ("home", "ada", "his"))
    assert (found.uid, found.target) == (BOB.uid, ("home", "bob"))


def test_a_slow_upload_replaces_nobody_elses_file(new_space):
    """The name was free, or the uploader's, when it began, and has become another's since."""
    space = new_space()
    furnish(space)
    path = ("shared", "mine")
    put(space, BOB, path, b"bob's")
    upload = space.upload(BOB, path)
    os.write(upload.descriptor, b"bob's again")
    space.delete(BOB, path)
    put(space, ADA, path, b"ada's")
    with pytest.raises(PermissionDenied):
        upload.commit({})
    upload.close()
    assert (space.tree.root / "shared/mine").read_bytes() == b"ada's"
    with pytest.raises(NodeNotFound):
        space.node(BOB, ("shared", "none"))
