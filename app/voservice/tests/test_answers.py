"""What answers say of a file, and where a redirect may lead."""

from __future__ import annotations

import gzip
import zlib
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from voservice.answers import (
    Decoder,
    Representation,
    Unreadable,
    field_value,
    media_type,
    moment,
    seconds_asked,
)
from voservice.digests import stated
from voservice.sources import SourcePolicy, SourceRefused, reason, show, show_all
from voservice.texts import legible
from yarl import URL

ZEROS = bytes(64 << 20)


def test_a_date_without_a_zone_is_utc_and_one_that_cannot_be_read_is_none() -> None:
    wanted = datetime(2026, 11, 24, 11, tzinfo=UTC)
    for text in (
        "Tue, 24 Nov 2026 11:00:00 GMT",
        "Tue, 24 Nov 2026 11:00:00",
        "Tue, 24 Nov 2026 12:00:00 +0100",
    ):
        assert moment(text) == wanted
    for text in (
        None,
        "",
        "soon",
        "Tue, 99 Nov 2026 11:00:00 GMT",
        "Tue, 24 Nov 2026 11:00:00 +9999",
        f"Tue, 24 Nov {'9' * 30} 11:00:00 GMT",
        f"Tue, 24 Nov 2026 11:00:00 +{'9' * 30}",
        f"Tue, {'9' * 30} Nov 2026 11:00:00 GMT",
        "\udcff",
    ):
        assert moment(text) is None


@given(text=st.text(max_size=30))
def test_any_header_is_read_or_left(text: str) -> None:
    moment(text)
    assert (seconds_asked(text) or 0) >= 0
    stated({"Digest": f"md5={text},adler32={text}", "Content-MD5": text})
    for value in (media_type(text), field_value(text)):
        assert value is None or value.isascii()
    headers = dict.fromkeys(
        ("Content-Length", "ETag", "Last-Modified", "Content-Type", "Content-Range"), text
    )
    told = Representation.of(200, headers, "a")
    assert told.length is None or told.length >= 0
    assert not set(legible(text).encode().decode()) & {"\x00", "\x1b", "\x85"}


@given(digits=st.text("0123456789", min_size=1, max_size=400), zone=st.sampled_from(("GMT", "+", "-")))
def test_dates_with_numbers_of_any_length_are_read_or_left(digits: str, zone: str) -> None:
    for text in (
        digits,
        f"Tue, {digits} Nov 2026 11:00:00 {zone}",
        f"Tue, 24 Nov {digits} 11:00:00 GMT",
        f"Tue, 24 Nov 2026 11:{digits}:00 GMT",
        f"Tue, 24 Nov 2026 11:00:00 {zone}{digits}",
    ):
        moment(text)
        assert (seconds_asked(text) or 0) >= 0


@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 20])
def test_what_is_decoded_comes_in_pieces_of_bounded_size(size: int) -> None:
    """A few bytes can stand for very many."""
    packed = gzip.compress(ZEROS) + gzip.compress(b"end")
    if size < 1000:
        packed = gzip.compress(ZEROS[: 1 << 20]) + gzip.compress(b"end")
    decoder = Decoder("gzip")
    total, longest = 0, 0
    for start in range(0, len(packed), size):
        for piece in decoder.feed(packed[start : start + size]):
            total, longest = total + len(piece), max(longest, len(piece))
    assert decoder.end()
    assert total == (1 << 20 if size < 1000 else len(ZEROS)) + 3
    assert longest <= 1 << 20


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_what_breaks_off_or_is_no_such_thing_is_noticed(coding: str) -> None:
    packed = gzip.compress(b"x" * 100) if coding == "gzip" else zlib.compress(b"x" * 100)
    decoder = Decoder(coding)
    list(decoder.feed(packed[:-1]))
    assert not decoder.end()
    with pytest.raises(Unreadable):
        list(Decoder(coding).feed(b"\x08\xff plain text"))
    with pytest.raises(Unreadable, match="'br'"):
        Representation.of(200, {"Content-Encoding": "br"}, "a")


def test_an_entity_tag_that_is_weak_or_cannot_be_sent_validates_nothing() -> None:
    date = {"Last-Modified": "Tue, 24 Nov 2026 11:00:00 GMT"}
    for headers, wanted in (
        ({"ETag": '"a"'}, '"a"'),
        ({"ETag": 'W/"a"'} | date, None),
        ({"ETag": '"\udcff"'} | date, None),
        (date, date["Last-Modified"]),
        ({"Last-Modified": "Tue, 24 Nov 2026 11:00:00"}, None),
        ({"Last-Modified": "soon GMT"}, None),
        ({"ETag": '"a"', "Content-Encoding": "gzip"}, None),
    ):
        assert Representation.of(200, headers, "a").validator == wanted


def test_a_redirect_stays_within_the_bases_and_behind_tls() -> None:
    policy = SourcePolicy(["https://door.example/d", "http://door.example/d", "https://pool.example:8443/"])
    door = URL("https://door.example/d/x")
    assert str(policy.redirect(door, "https://pool.example:8443/a b/\udcc3\udca9%41?ticket=1#x")) == (
        "https://pool.example:8443/a%20b/%C3%A9%41?ticket=1"
    )
    for location in (
        "http://door.example/d/y",
        "https://pool.example/x",
        "//elsewhere.example/d/y",
        "https://user:secret@pool.example:8443/x",
        "/secret",
        "../secret",
        "/d/%2e%2e/secret",
        "/d/a\x00b",
        "http://[",
        "https://pool.example:99999/",
    ):
        with pytest.raises(SourceRefused):
            policy.redirect(door, location)


def test_a_url_is_shown_without_what_may_be_secret() -> None:
    for url, shown in (
        ("https://pool.example:24001/a/b?ticket=s3cret#s3cret", "https://pool.example:24001/a/b"),
        ("https://u:s3cret@pool.example/a@b?authz=s3cret", "https://pool.example/a@b"),
        ("https://u:s3cret@pool.example:99999?authz=s3cret", "https://pool.example:99999"),
        ("//u:s3cret@pool.example/a", "//pool.example/a"),
        ("u:s3cret@pool.example/a", "pool.example/a"),
        ("https://pool.example/a#s3cret?x", "https://pool.example/a"),
        ("root://pool.example//a?authz=s3cret", "root://pool.example//a"),
        ("", ""),
    ):
        assert show(url) == shown
        if "://" in url:
            assert show_all(f"asked '{url}', in vain") == f"asked '{shown}', in vain"
    assert len(show(f"https://pool.example/{'a' * 1000}")) == 200
    policy = SourcePolicy(["https://door.example/d"])
    for location in ("https://u:s3cret@h:99999/", "ftp://u:s3cret@h/x?s3cret", "https://h/x?authz=s3cret"):
        with pytest.raises(SourceRefused) as refused:
            policy.redirect(URL("https://door.example/d?token=s3cret"), location)
        assert "s3cret" not in str(refused.value)


def test_an_error_of_a_client_is_told_without_the_urls_secrets() -> None:
    url = URL("https://pool.example/a?ticket=s3cret")
    asked: Any = SimpleNamespace(real_url=url)
    header = "Invalid header value char:\n\n  b'Location: /x?ticket=s3cret\\x00'"
    for error, told in (
        (aiohttp.ClientResponseError(asked, (), status=400, message=header), "400 Invalid header value char"),
        (aiohttp.ClientResponseError(asked, (), status=400, message=f"at {url}"), "400 at https"),
        (aiohttp.InvalidURL(url), "https://pool.example/a"),
        (ValueError(f"no such place: {url} (sorry)"), "no such place: https://pool.example/a (sorry)"),
        (TimeoutError(), None),
    ):
        kind = type(error).__name__
        assert reason(error) == (f"{kind}: {told}" if told else kind)
