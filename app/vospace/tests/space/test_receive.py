"""What is received becomes a file when it is too large for memory, or with its properties."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from functools import partial

import pytest
from vospace.models.caller import Caller
from vospace.models.errors import InvalidArgument, QuotaExceeded
from vospace.models.node import Change
from vospace.space.receive import Receiver
from vospace_client.terms import ADLER32, MD5, QUOTA, TYPE

ADMIN = Caller("cavernadmin", 9999, 9999, frozenset({9999}), frozenset(), "token")
ADA = Caller("ada", 10_001, 10_001, frozenset({10_001}), frozenset(), "token")
HOME = ("home", "ada")
FILE = (*HOME, "f")


@pytest.fixture
def space(new_space):
    space = new_space()
    space.create_container(ADMIN, HOME, Change(properties={QUOTA: "1000"}), ADA.ids)
    return space


def receiver(space, **options) -> Receiver:
    return Receiver(partial(space.upload, ADA, FILE), **options)


async def body(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def stored(space) -> tuple[bytes, dict[str, str]]:
    opened = space.open(ADA, FILE)
    with os.fdopen(opened.descriptor, "rb") as stream:
        return stream.read(), opened.properties


@pytest.mark.parametrize("size", [3, 10, 11, 900])
async def test_a_buffer_becomes_a_file(space, size):
    content = os.urandom(size)
    async with receiver(space, buffer=10) as received:
        for byte in content:
            await received.write(bytes([byte]))
        await received.flush()
        assert received.buffered == (size if size <= 10 else 0)
        received.stage(received.properties("text/plain", None)).place()
    found, properties = stored(space)
    assert found == content
    assert properties[MD5] == hashlib.md5(content, usedforsecurity=False).hexdigest()
    assert properties[TYPE] == "text/plain"
    assert ADLER32 in properties


async def test_what_was_not_placed_is_gone(space):
    async with receiver(space, buffer=10) as received:
        await received.write(b"x" * 20)
        received.stage({})
    assert list(space.children(ADA, HOME)) == []


async def test_a_quota_binds_what_is_announced_and_what_comes(space):
    async with receiver(space) as received:
        await received.open()
        await received.announce(None)
        await received.announce(1000)
        with pytest.raises(QuotaExceeded):
            await received.announce(1001)
        with pytest.raises(QuotaExceeded):
            await received.receive(body(b"x" * 600, b"x" * 600), None)


async def test_a_body_has_the_length_that_was_announced(space):
    async with receiver(space) as received:
        await received.open()
        with pytest.raises(InvalidArgument, match="3 bytes, announced were 4"):
            await received.receive(body(b"ab", b"c"), 4)
