"""What is received becomes a file when it is too large for memory, or with its properties."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator
from functools import partial
from types import SimpleNamespace

import pytest
from vospace.models.caller import Caller
from vospace.models.errors import InvalidArgument, QuotaExceeded
from vospace.models.node import Change
from vospace.space.receive import Receiver
from vospace.storage.staging import StagedFile
from vospace.storage.threads import uninterrupted
from vospace.transfers.documents import Protocol, Transfer
from vospace.transfers.fetcher import Fetched
from vospace.transfers.runner import TransferRunner
from vospace_client.terms import ADLER32, HTTP_GET, MD5, PULL_TO, QUOTA, TYPE

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


class Slow:
    """A step in a thread that waits until it is let go."""

    def __init__(self, step) -> None:
        self.begun, self.going, self.done = threading.Event(), threading.Event(), threading.Event()
        self._step = step

    def __call__(self, *arguments, **options):
        self.begun.set()
        self.going.wait()
        try:
            return self._step(*arguments, **options)
        finally:
            self.done.set()

    async def cancelled_within(self, work) -> None:
        """Cancel some work twice while the step is under way; the work ends after the step, and not before."""
        task = asyncio.ensure_future(work)
        await asyncio.to_thread(self.begun.wait)
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0.01)
        assert not task.done()
        self.going.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert self.done.is_set()


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("step", ["own", "sync"])
async def test_a_cancelled_pull_closes_its_file_when_no_thread_writes_to_it(space, monkeypatch, step):
    async def announce(*_results) -> None:
        pass

    async def fetch(_urls, sink, *_rest, **_options) -> Fetched:
        await sink.write(b"x")
        await sink.flush()
        return Fetched(1, sink.md5, sink.adler32)

    run = SimpleNamespace(job=SimpleNamespace(id="job", checkpoint={}), announce=announce, ends=False)
    runner = TransferRunner(space, None, SimpleNamespace(fetch=fetch), None, "http://here")
    transfer = Transfer((space.naming.uri(FILE),), PULL_TO, protocols=(Protocol(HTTP_GET, "http://there/f"),))
    slow = Slow(getattr(StagedFile, step))
    monkeypatch.setattr(StagedFile, step, lambda *arguments: slow(*arguments))  # noqa: PLW0108 - functions are bound
    before = descriptors()
    await slow.cancelled_within(runner._pull(run, ADA, transfer))
    assert descriptors() <= before


async def test_an_upload_that_begins_when_its_task_is_cancelled_is_closed(space):
    slow = Slow(partial(space.upload, ADA, FILE))
    before = descriptors()

    async def receive() -> None:
        async with Receiver(slow) as received:
            await received.open()

    await slow.cancelled_within(receive())
    assert descriptors() <= before


async def test_a_file_that_is_being_filled_is_closed_when_no_thread_writes_to_it(space, monkeypatch):
    slow = Slow(os.write)

    async def receive() -> None:
        async with receiver(space) as received:
            await received.open()
            await received.write(b"x")
            monkeypatch.setattr("vospace.storage.sinks.os.write", slow)
            await received.flush()

    await slow.cancelled_within(receive())


async def test_what_is_not_interrupted_ends_before_the_cancellation_is_raised():
    slow = Slow(lambda: None)
    await slow.cancelled_within(uninterrupted(lambda: asyncio.to_thread(slow)))
    assert await uninterrupted(lambda: asyncio.sleep(0, "result")) == "result"
    with pytest.raises(KeyError):
        await uninterrupted(lambda: asyncio.to_thread({}.__getitem__, "missing"))
