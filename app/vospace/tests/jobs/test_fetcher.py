"""The fetcher against a real HTTP server that breaks in the middle, lies and redirects."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import partial

import aiohttp
import pytest
from prometheus_client import REGISTRY
from voservice.content import Content
from voservice.sources import SourcePolicy, SourceRefused
from voservice.storage_elements import Element, Elements
from vospace.models.errors import TransferFailed
from vospace.storage.sinks import FileSink, MemorySink
from vospace.transfers.fetcher import Fetcher, FetchLimits, open_session

BODY = bytes(range(256)) * 20_000
MD5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()
ADLER32 = f"{zlib.adler32(BODY):08x}"
LIMITS = FetchLimits(attempts=3, backoff=0.001, stall_timeout=0.5)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session(LIMITS, aiohttp.TCPConnector(limit=4)) as session:
        yield session


def fetcher_of(session: aiohttp.ClientSession, base: str, limits: FetchLimits = LIMITS) -> Fetcher:
    """A fetcher from URLs below *base*."""
    elements = Elements([], partial(open_session, limits), issuer="")
    policy = SourcePolicy([base])
    elements.all = [Element(None, session, policy, policy)]
    return Fetcher(elements, limits)


@pytest.fixture
def fetcher(session, source) -> Fetcher:
    source.files["/d/f"] = BODY
    return fetcher_of(session, f"{source.base}/d")


@pytest.fixture
def descriptor() -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        yield file.fileno()


def content(descriptor: int) -> bytes:
    return os.pread(descriptor, 1 << 30, 0)


async def test_what_comes_and_what_fails_is_counted(fetcher, source, descriptor):
    def counted() -> list[float]:
        told = REGISTRY.get_sample_value
        pulls = [told("vospace_pulls_total", {"fault": fault}) for fault in ("", "SourceNotFound")]
        return [value or 0.0 for value in (*pulls, told("vospace_pulled_bytes_total"))]

    before = counted()
    await fetcher.fetch([source.url("/d/f")], FileSink(descriptor), Content())
    with pytest.raises(TransferFailed):
        await fetcher.fetch([source.url("/d/none")], FileSink(descriptor), Content())
    assert [after - then for after, then in zip(counted(), before, strict=True)] == [1, 1, len(BODY)]


async def test_whole_file_with_both_checksums(fetcher, source, descriptor):
    fetched = await fetcher.fetch(
        [source.url("/d/f")], FileSink(descriptor), Content(len(BODY), MD5, ADLER32)
    )
    assert (fetched.size, fetched.md5, fetched.adler32) == (len(BODY), MD5, ADLER32)
    assert content(descriptor) == BODY
    assert source.requests[0].headers["Want-Digest"].startswith("adler32")


async def test_empty_file(fetcher, source, descriptor):
    source.files["/d/e"] = b""
    fetched = await fetcher.fetch([source.url("/d/e")], FileSink(descriptor), Content(0))
    assert (fetched.size, fetched.adler32) == (0, "00000001")


async def test_broken_transfers_resume_behind_the_bytes_already_had(fetcher, source, descriptor):
    source.script = ["cut:2000000", "status:503", "cut:1500000"]
    fetched = await fetcher.fetch([source.url("/d/f")], FileSink(descriptor), Content(md5=MD5))
    assert content(descriptor) == BODY
    assert fetched.md5 == MD5
    ranges = [request.headers.get("Range") for request in source.requests]
    assert ranges[0] is None
    assert ranges[1] == ranges[2] != ranges[3]
    assert all(request.headers["If-Range"] == source.etag for request in source.requests[1:])


async def test_without_a_validator_it_starts_over(fetcher, source, descriptor):
    source.etag = None
    source.script = ["cut:2000000"]
    await fetcher.fetch([source.url("/d/f")], FileSink(descriptor), Content(md5=MD5))
    assert source.requests[1].headers.get("Range") is None
    assert content(descriptor) == BODY


async def test_a_file_that_changed_in_between_is_fetched_anew(fetcher, source, descriptor):
    source.script = ["cut:2000000"]
    original = source.handle
    other = bytes(reversed(BODY))

    async def change(request):
        if source.requests:
            source.etag, source.files["/d/f"] = '"v2"', other
        return await original(request)

    source.handle = change
    fetched = await fetcher.fetch([source.url("/d/f")], FileSink(descriptor), Content())
    assert content(descriptor) in (other, BODY)
    assert fetched.md5 == hashlib.md5(content(descriptor), usedforsecurity=False).hexdigest()


async def test_a_source_that_ignores_the_range(fetcher, source, descriptor):
    source.script = ["cut:2000000", "ignore-range"]
    await fetcher.fetch([source.url("/d/f")], FileSink(descriptor), Content(md5=MD5))
    assert content(descriptor) == BODY


async def test_a_stalled_source_is_given_up_and_resumed(fetcher, source, descriptor):
    source.script = ["stall:1000000"]
    await fetcher.fetch([source.url("/d/f")], FileSink(descriptor), Content(md5=MD5))
    assert content(descriptor) == BODY


async def test_attempts_end(fetcher, source):
    source.script = ["status:503"] * 10
    with pytest.raises(TransferFailed) as caught:
        await fetcher.fetch([source.url("/d/f")], MemorySink(), Content())
    assert (caught.value.name, caught.value.transient, caught.value.away) == (
        "TransferFailed",
        True,
        "source",
    )
    assert len(source.requests) == LIMITS.attempts


@pytest.mark.parametrize(
    ("expected", "fault"),
    [
        (Content(size=1), "SizeMismatch"),
        (Content(md5="0" * 32), "ChecksumMismatch"),
        (Content(adler32="0" * 8), "ChecksumMismatch"),
    ],
)
async def test_what_was_asked_for_is_compared(fetcher, source, expected, fault):
    with pytest.raises(TransferFailed) as caught:
        await fetcher.fetch([source.url("/d/f")], MemorySink(), expected)
    assert (caught.value.name, caught.value.transient) == (fault, False)


async def test_what_the_source_states_is_compared(fetcher, source):
    source.digest = source.md5_digest(b"something else")
    with pytest.raises(TransferFailed, match="stated by the source"):
        await fetcher.fetch([source.url("/d/f")], MemorySink(), Content())
    source.digest = source.md5_digest(BODY)
    assert (await fetcher.fetch([source.url("/d/f")], MemorySink(), Content())).md5 == MD5


@pytest.mark.parametrize(
    ("script", "away"),
    [("status:500", None), ("cut:0", None), ("stall:1000", "source"), ("status:504", "source")],
)
async def test_what_did_not_answer_is_told_from_what_answered_badly(fetcher, source, script, away):
    source.etag = None
    source.script = [script] * 10
    with pytest.raises(TransferFailed) as caught:
        await fetcher.fetch([source.url("/d/f")], MemorySink(), Content())
    assert (caught.value.transient, caught.value.away) == (True, away)


async def test_a_source_that_is_not_there(session, fetcher):
    nobody = fetcher_of(session, "http://127.0.0.1:1")
    with pytest.raises(TransferFailed) as caught:
        await nobody.fetch(["http://127.0.0.1:1/f"], MemorySink(), Content())
    assert (caught.value.transient, caught.value.away) == (True, "source")


async def test_size_limit(session, fetcher, source):
    small = fetcher_of(session, source.base, replace(LIMITS, max_bytes=1000))
    with pytest.raises(TransferFailed, match="larger than the limit"):
        await small.fetch([source.url("/d/f")], MemorySink(), Content())


async def test_missing_and_refused(fetcher, source):
    with pytest.raises(TransferFailed) as missing:
        await fetcher.fetch([source.url("/d/none")], MemorySink(), Content())
    assert missing.value.name == "SourceNotFound"
    source.script = ["status:403"]
    with pytest.raises(TransferFailed) as refused:
        await fetcher.fetch([source.url("/d/f")], MemorySink(), Content())
    assert (refused.value.name, refused.value.transient) == ("TransferFailed", False)


async def test_redirects_only_inside(fetcher, source, descriptor):
    source.script = ["redirect:/d/f"]
    await fetcher.fetch([source.url("/d/g")], FileSink(descriptor), Content(md5=MD5))
    for location in ("/elsewhere", "http://169.254.169.254/latest/", "//localhost/d/f", "file:///etc/passwd"):
        source.requests.clear()
        source.script = [f"redirect:{location}"]
        with pytest.raises(TransferFailed) as caught:
            await fetcher.fetch([source.url("/d/f")], MemorySink(), Content())
        assert caught.value.name == "InvalidArgument"
        assert len(source.requests) == 1


async def test_redirect_loop(fetcher, source):
    source.script = ["redirect:/d/f"] * 20
    with pytest.raises(TransferFailed, match="redirects"):
        await fetcher.fetch([source.url("/d/f")], MemorySink(), Content())


POLICY = SourcePolicy(["http://rse-web:80/rse/deterministic", "https://data.example.org/a/"])


@pytest.mark.parametrize(
    "url",
    [
        "http://rse-web/rse/deterministic/ns/84/1c/file",
        "http://RSE-web:80/rse/deterministic/x",
        "https://data.example.org:443/a/b?signature=1",
        "http://rse-web/rse/deterministic/a%20b+c",
    ],
)
def test_allowed(url):
    assert str(POLICY.check(url)) == url.replace(":80", "").replace(":443", "")


@pytest.mark.parametrize(
    "url",
    [
        "http://rse-web/rse/deterministic2/x",
        "http://rse-web/rse",
        "http://rse-web:81/rse/deterministic/x",
        "https://rse-web:80/rse/deterministic/x",
        "http://rse-web/rse/deterministic/../secret",
        "http://rse-web/rse/deterministic/%2e%2e/secret",
        "http://rse-web/rse/deterministic/..%2fsecret",
        "http://rse-web/rse/deterministic/a%5c..%5cb",
        "http://rse-web/rse/deterministic/a\\..\\b",
        "http://user:pw@rse-web/rse/deterministic/x",
        "http://rse-web@evil.example/rse/deterministic/x",
        "http://evil.example/rse/deterministic/x",
        "http://rse-web.evil.example/rse/deterministic/x",
        "http://127.0.0.1/rse/deterministic/x",
        "http://[::1]/rse/deterministic/x",
        "http://rse-web/rse/deterministic/x y",
        "http://rse-web/rse/deterministic/x\r\nHost: evil",
        "file:///rse/deterministic/x",
        "ftp://rse-web/rse/deterministic/x",
        "http:///rse/deterministic/x",
        "http://rse-web:99999/rse/deterministic/x",
        "http://[rse-web/rse/deterministic/x",
        "",
        "rse/deterministic/x",
    ],
)
def test_not_allowed(url):
    with pytest.raises(SourceRefused):
        POLICY.check(url)
