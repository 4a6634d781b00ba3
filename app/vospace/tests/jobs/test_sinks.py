"""Files written in blocks: past the page cache where that works, in the usual way where it does not."""

from __future__ import annotations

import fcntl
import hashlib
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from vospace.storage.system_calls import bypass_cache
from vospace.transfers.errors import FetchFailed
from vospace.transfers.sinks import BLOCK, FileSink

BODY = os.urandom(1 << 20) * 5 + b"a rest"


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


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
async def test_all_bytes_arrive_in_order(descriptor: int, piece: int) -> None:
    sink = FileSink(descriptor)
    await fill(sink, BODY, piece)
    await sink.flush()
    assert not direct(descriptor)
    assert holds(descriptor, sink, BODY)


async def test_whole_blocks_go_past_the_page_cache(descriptor: int) -> None:
    if not bypass_cache(descriptor, True):
        pytest.skip("this file system has no O_DIRECT")
    bypass_cache(descriptor, False)
    sink = FileSink(descriptor)
    await sink.write(b"x" * (BLOCK - 1))
    assert not direct(descriptor)
    await sink.write(b"y")
    assert direct(descriptor)
    await sink.flush()
    assert os.fstat(descriptor).st_size == BLOCK


async def test_more_may_follow_a_flush(descriptor: int) -> None:
    """As after a transfer that broke and goes on: the next bytes are at no block's start."""
    sink = FileSink(descriptor)
    cut = BLOCK + 12_345
    await sink.write(BODY[:cut])
    await sink.flush()
    await fill(sink, BODY[cut:], 100_000)
    await sink.flush()
    assert holds(descriptor, sink, BODY)


async def test_a_position_that_cannot_be_written_directly_is_written_all_the_same(descriptor: int) -> None:
    os.write(descriptor, b"!")
    sink = FileSink(descriptor)
    await sink.write(BODY)
    await sink.flush()
    assert os.pread(descriptor, len(BODY) + 2, 0) == b"!" + BODY


async def test_nothing_is_left_of_what_came_before_a_restart(descriptor: int) -> None:
    sink = FileSink(descriptor)
    await sink.write(os.urandom(3 * BLOCK + 5))
    await sink.restart()
    await sink.write(BODY)
    await sink.flush()
    assert holds(descriptor, sink, BODY)


async def test_a_full_disk_is_told() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        sink = FileSink(descriptor)
        await sink.write(b"x" * BLOCK)
        with pytest.raises(FetchFailed) as failure:
            await sink.flush()
        assert failure.value.fault == "QuotaExceeded"
    finally:
        os.close(descriptor)
