"""A quota binds whoever has it, whatever he moves, removes or makes anew."""

from __future__ import annotations

import os

import pytest
from vospace.models.caller import Caller
from vospace.models.errors import Fault, PermissionDenied, QuotaExceeded
from vospace.models.node import Change

QUOTA = "ivo://ivoa.net/vospace/core#quota"
ADMIN = Caller("cavernadmin", 9999, 9999, frozenset({9999}), frozenset(), "token")
ADA = Caller("ada", 10_001, 10_001, frozenset({10_001}), frozenset(), "token")
HOME = ("home", "ada")


def put(space, path, size, who=ADA):
    upload = space.upload(who, path)
    try:
        os.write(upload.descriptor, b"x" * size)
        upload.commit({})
    finally:
        upload.close()


def limit(space, size, path=HOME):
    space.update(ADMIN, path, Change(properties={QUOTA: None if size is None else str(size)}))


@pytest.mark.parametrize("given", [None, 1000], ids=["without a quota", "with a quota"])
def test_an_allocation_is_the_administrators_to_move_and_remove(new_space, given):
    space = new_space(vospace_root_writers=["any"])
    for path in (HOME, ("projects", "p")):
        space.create_container(ADMIN, path, owner=ADA.ids)
        limit(space, given, path)
        with pytest.raises(PermissionDenied):
            space.delete(ADA, path)
        for wanted in (("elsewhere",), ("home", "other"), ("projects", "ada")):
            with pytest.raises(PermissionDenied):
                space.move(ADA, path, wanted)
    space.move(ADMIN, HOME, ("home", "renamed"))
    assert space.node(ADMIN, ("home", "renamed")).uid == ADA.uid
    space.delete(ADMIN, ("home", "renamed"))
    space.create_container(ADA, HOME)


def test_what_a_quota_is_on_is_the_administrators_to_move_and_remove(new_space):
    """At the top too, where the owner would do so with anything else."""
    space = new_space(vospace_root_writers=["any"])
    space.create_container(ADMIN, ("given",), Change(properties={QUOTA: "1000"}), ADA.ids)
    with pytest.raises(PermissionDenied):
        space.delete(ADA, ("given",))
    with pytest.raises(PermissionDenied):
        space.move(ADA, ("given",), ("taken",))
    space.delete(ADMIN, ("given",))


def test_one_makes_one_area_of_ones_own(new_space):
    """Another below another parent would be another quota."""
    space = new_space(vospace_default_quota_bytes=1000)
    for wanted in (("projects", "ada"), ("projects", "p"), ("ada",)):
        with pytest.raises(PermissionDenied):
            space.create_container(ADA, wanted)
    space.create_container(ADA, HOME)
    with pytest.raises(QuotaExceeded):
        put(space, (*HOME, "f"), 1001)
    elsewhere = new_space(vospace_allocation_parents=["/users", "/projects"])
    elsewhere.create_container(ADA, ("users", "ada"))
    with pytest.raises(PermissionDenied):
        elsewhere.create_container(ADA, ("projects", "ada"))


def test_a_default_quota_binds_at_the_top_too(new_space):
    space = new_space(vospace_default_quota_bytes=1000, vospace_root_writers=["any"])
    space.create_container(ADA, ("top",))
    with pytest.raises(QuotaExceeded):
        put(space, ("top", "f"), 1001)
    with pytest.raises(PermissionDenied):
        put(space, ("f",), 1)
    space.create_container(ADA, HOME)
    space.create_container(ADA, (*HOME, "box"))
    for wanted in (("box",), ("projects", "ada"), ("home", "x")):
        with pytest.raises(PermissionDenied):
            space.destination(ADA, (*HOME, "box"), wanted)
        with pytest.raises(PermissionDenied):
            space.move(ADA, (*HOME, "box"), wanted)


def test_a_quota_counts_what_is_there_when_it_is_set(new_space):
    space = new_space()
    space.create_container(ADA, HOME)
    limit(space, 10_000)
    put(space, (*HOME, "a"), 100)
    limit(space, None)
    put(space, (*HOME, "b"), 5000)  # not counted: there is no quota
    limit(space, 5100)
    with pytest.raises(QuotaExceeded):
        put(space, (*HOME, "c"), 1)
    limit(space, 6000)
    put(space, (*HOME, "c"), 900)
    limit(space, 1000)
    with pytest.raises(QuotaExceeded):
        put(space, (*HOME, "d"), 1)


@pytest.mark.parametrize("before", [None, 10_000], ids=["set", "lowered"])
def test_a_quota_binds_what_is_being_written(new_space, before):
    """Also in another process than that in which it is set."""
    space = new_space()
    space.create_container(ADA, HOME)
    space.create_container(ADA, (*HOME, "box"))
    limit(space, before)
    other = new_space(vospace_base_dir=space.tree.root.parent)
    upload = other.upload(ADA, (*HOME, "box", "f"))
    os.write(upload.descriptor, b"x" * 5000)
    limit(space, 1000)
    with pytest.raises(QuotaExceeded):
        upload.commit({})
    upload.close()
    assert os.listdir(space.tree.root / "home/ada/box") == []
    put(other, (*HOME, "box", "f"), 900)


def test_moves_count_at_their_destination(new_space):
    space = new_space()
    space.create_container(ADA, HOME)
    space.create_container(ADMIN, ("projects", "p"), Change(properties={QUOTA: "1000"}), ADA.ids)
    put(space, (*HOME, "a"), 900)
    put(space, (*HOME, "b"), 900)
    space.move(ADA, (*HOME, "a"), ("projects", "p", "a"))
    with pytest.raises(QuotaExceeded):
        space.move(ADA, (*HOME, "b"), ("projects", "p", "b"))
    with pytest.raises(Fault):
        put(space, ("projects", "p", "c"), 200)
    put(space, ("projects", "p", "c"), 100)


def test_a_container_in_anothers_place_is_counted_anew(new_space):
    space = new_space()
    for name, size in (("one", 900), ("two", 100)):
        space.create_container(ADMIN, ("projects", name), Change(properties={QUOTA: "1000"}), ADA.ids)
        put(space, ("projects", name, "f"), size)
    space.move(ADMIN, ("projects", "one"), ("projects", "three"))
    space.move(ADMIN, ("projects", "two"), ("projects", "one"))
    space.move(ADMIN, ("projects", "three"), ("projects", "two"))
    put(space, ("projects", "one", "g"), 900)
    with pytest.raises(QuotaExceeded):
        put(space, ("projects", "two", "g"), 101)
