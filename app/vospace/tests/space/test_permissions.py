"""What a change makes of a node's ACL."""

import os
import stat

import pytest
from vospace.models.node import Change
from vospace.space.permissions import acl_for, readers, writers
from vospace.storage.posix_acl import Acl
from vospace.storage.tree import Kind, Status

KINDS = [Kind.CONTAINER, Kind.DATA]


def status(kind: Kind, acl: Acl) -> Status:
    mode = (stat.S_IFDIR if kind is Kind.CONTAINER else stat.S_IFREG) | acl.mode
    return Status(kind, os.stat_result((mode, *(0,) * 9)), acl)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("public", [True, False])
def test_what_a_change_does_not_mention_stays(kind: Kind, public: bool) -> None:
    wanted = Change(public=public, read_gids=frozenset({1, 2}), write_gids=frozenset({2, 3}))
    made = acl_for(status(kind, Acl.of_mode(0o700)), wanted)
    assert (readers(made), writers(made)) == ({1}, {2, 3})
    assert status(kind, made).public is public
    assert acl_for(status(kind, made), Change()) == made


@pytest.mark.parametrize("kind", KINDS)
def test_only_containers_are_entered(kind: Kind) -> None:
    change = Change(public=True, read_gids=frozenset({1}), write_gids=frozenset({2}))
    made = acl_for(status(kind, Acl.of_mode(0o600)), change)
    bits = {made.user, made.group, made.other, *made.groups.values()}
    assert {bit & 1 for bit in bits} == {1 if kind is Kind.CONTAINER else 0}


def test_a_program_stays_one_for_its_owner() -> None:
    made = acl_for(status(Kind.DATA, Acl.of_mode(0o755)), Change(public=True))
    assert (made.user, made.group, made.other) == (7, 6, 4)
