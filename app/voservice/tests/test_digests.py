"""Checksums in one pass, and as headers state them."""

from __future__ import annotations

import base64
import hashlib
import os
import zlib

import pytest
from voservice.content import Content
from voservice.digests import Digester, stated

BODY = os.urandom(1_000_003)
MD5 = hashlib.md5(BODY, usedforsecurity=False)
BASE64 = base64.b64encode(MD5.digest()).decode()


@pytest.mark.parametrize("piece", [1, 65_537, len(BODY)])
def test_pieces_make_the_whole(piece: int) -> None:
    digester = Digester()
    body = BODY if piece > 1 else BODY[:5000]
    for start in range(0, len(body), piece):
        digester.update(memoryview(body)[start : start + piece])
    assert digester.size == len(body)
    assert digester.md5 == hashlib.md5(body, usedforsecurity=False).hexdigest()
    assert digester.adler32 == f"{zlib.adler32(body):08x}"


def test_more_algorithms() -> None:
    digester = Digester(["sha256"])
    digester.update(BODY)
    assert digester.value("sha256") == hashlib.sha256(BODY).digest()
    assert digester.value("md5") == MD5.digest()
    assert digester.value("adler32").hex() == digester.adler32


def test_nothing_has_checksums_too() -> None:
    assert (Digester().size, Digester().md5, Digester().adler32) == (
        0,
        "d41d8cd98f00b204e9800998ecf8427e",
        "00000001",
    )


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, Content()),
        ({"Digest": "adler32=3a4B"}, Content(adler32="00003a4b")),
        ({"Digest": f"MD5={BASE64}, adler32=0000000f"}, Content(None, MD5.hexdigest(), "0000000f")),
        ({"Content-MD5": BASE64}, Content(md5=MD5.hexdigest())),
        ({"Digest": "sha-256=AAAA"}, Content()),
        *(({"Digest": f"adler32={value}"}, Content()) for value in ("-1", "0x12", "1_0", "123456789", "é")),
        *(({"Digest": f"md5={value}"}, Content()) for value in ("", "AAAA", "no base64!", MD5.hexdigest())),
    ],
)
def test_what_headers_state(headers: dict[str, str], found: Content) -> None:
    assert stated(headers) == found
