"""Files written in blocks: past the page cache where that works, in the usual way where it does not."""

from __future__ import annotations

import fcntl
import hashlib
import os
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from vospace.models.errors import TransferFailed
from vospace.storage.sinks import BLOCK, BLOCKS, LARGE_BLOCK, LARGE_FILES, FileSink
from vospace.storage.system_calls import bypass_cache

# More blocks, the first of the usual size and large ones, than are in memory at once.
BODY = os.urandom(BLOCK + (BLOCKS + 1) * LARGE_BLOCK) + b"a rest"


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
async def sink(descriptor: int) -> AsyncIterator[FileSink]:
    sink = FileSink(descriptor)
    yield sink
    await sink.close()


def direct(descriptor: int) -> bool:
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)


async def fill(sink: FileSink, body: bytes, piece: int) -> None:
    for start in range(0, len(body), piece):
        await sink.write(body[start : start + piece])


def holds(descriptor: int, sink: FileSink, body: bytes) -> bool:
    """Whether file and sink are those of a body."""
    assert (sink.length, sink.adler32) == (len(body), f"{zlib.adler32(body):08x}")
    assert sink.md5 == hashlib.md5(body, usedforsecurity=False).hexdigest()
    return os.pread(descriptor, len(body) + 1, 0) == body


@pytest.mark.parametrize("piece", [1000, 65_537, BLOCK, 3 * BLOCK])
async def test_all_bytes_arrive_in_order(descriptor: int, sink: FileSink, piece: int) -> None:
    await fill(sink, BODY, piece)
    await sink.flush()
    assert not direct(descriptor)
    assert holds(descriptor, sink, BODY)


async def test_whole_blocks_go_past_the_page_cache(descriptor: int, sink: FileSink) -> None:
    if not bypass_cache(descriptor, True):
        pytest.skip("this file system has no O_DIRECT")
    bypass_cache(descriptor, False)
    await sink.write(b"x" * (BLOCK - 1))
    assert not direct(descriptor)
    await sink.write(b"y")
    assert direct(descriptor)
    await sink.flush()
    assert os.fstat(descriptor).st_size == BLOCK


async def test_more_may_follow_a_flush(descriptor: int, sink: FileSink) -> None:
    """As after a transfer that broke and goes on: the next bytes are at no block's start."""
    cut = BLOCK + 12_345
    await sink.write(BODY[:cut])
    await sink.flush()
    await fill(sink, BODY[cut:], 100_000)
    await sink.flush()
    assert holds(descriptor, sink, BODY)


async def test_a_position_that_forbids_direct_writes_is_written_all_the_same(
    descriptor: int, sink: FileSink
) -> None:
    os.write(descriptor, b"!")
    await sink.write(BODY)
    await sink.flush()
    assert os.pread(descriptor, len(BODY) + 2, 0) == b"!" + BODY


async def test_nothing_is_left_of_what_came_before_a_restart(descriptor: int, sink: FileSink) -> None:
    await sink.write(os.urandom(BLOCK + LARGE_BLOCK + 5))
    await sink.restart()
    await sink.write(BODY)
    await sink.flush()
    assert holds(descriptor, sink, BODY)


async def test_a_full_disk_is_told() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    sink = FileSink(descriptor)
    try:
        await sink.write(b"x" * BLOCK)
        with pytest.raises(TransferFailed) as failure:
            await sink.flush()
        assert failure.value.name == "QuotaExceeded"
    finally:
        await sink.close()
        os.close(descriptor)


async def test_the_few_large_blocks_go_from_one_file_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More files than may have them, twice: each is whole, and those that ended have given theirs back."""
    monkeypatch.setattr(FileSink, "_large_files", 0)  # whatever other tests have left open
    for _ in range(2):
        descriptors = [os.open(tmp_path / str(n), os.O_RDWR | os.O_CREAT) for n in range(LARGE_FILES + 2)]
        sinks = [FileSink(descriptor) for descriptor in descriptors]
        try:
            for sink in sinks:
                await sink.write(BODY[: BLOCK + 5])
            assert [len(sink._block) for sink in sinks] == [LARGE_BLOCK] * LARGE_FILES + [BLOCK] * 2
            for sink, descriptor in zip(sinks, descriptors, strict=True):
                await sink.write(BODY[BLOCK + 5 :])
                await sink.flush()
                assert holds(descriptor, sink, BODY)
        finally:
            for sink, descriptor in zip(sinks, descriptors, strict=True):
                await sink.close()
                os.close(descriptor)


async def test_a_failed_block_is_forgotten_by_a_restart(descriptor: int, sink: FileSink) -> None:
    await sink.write(BODY[:BLOCK])
    await sink.flush()

    async def fail() -> None:
        await fill(sink, BODY[: BLOCK + 2 * LARGE_BLOCK], LARGE_BLOCK)
        await sink.flush()

    read_only = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY)
    whole = os.dup(descriptor)
    try:
        os.dup2(read_only, descriptor)
        # By the write itself, where three of its blocks are smaller ones.
        with pytest.raises(TransferFailed):
            await fail()
        os.dup2(whole, descriptor)
    finally:
        os.close(read_only)
        os.close(whole)
    await sink.restart()
    await fill(sink, BODY, LARGE_BLOCK)
    await sink.flush()
    assert holds(descriptor, sink, BODY)
