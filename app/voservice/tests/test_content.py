"""Contents compared: what one knows and the other has not."""

from __future__ import annotations

import pytest
from voservice.content import UNKNOWN, Content, Mismatch, parse_adler32, parse_md5

MD5 = "d41d8cd98f00b204e9800998ecf8427e"
OTHER = "0" * 32
FOUND = Content(0, MD5, "00000001")


@pytest.mark.parametrize(
    "expected", [UNKNOWN, FOUND, Content(0), Content(md5=MD5), Content(adler32="00000001")]
)
def test_what_is_not_known_is_not_compared(expected: Content) -> None:
    assert expected.differs(FOUND) is None


@pytest.mark.parametrize(
    ("expected", "found", "fault", "detail"),
    [
        (Content(1, OTHER), FOUND, "SizeMismatch", "length is 0 bytes, expected 1"),
        (Content(0, OTHER, "00000002"), FOUND, "ChecksumMismatch", f"MD5 is {MD5}, expected {OTHER}"),
        (Content(adler32="00000002"), FOUND, "ChecksumMismatch", "adler32 is 00000001, expected 00000002"),
        (Content(1), UNKNOWN, "SizeMismatch", "length is unknown, expected 1"),
        (Content(md5=MD5), Content(0), "ChecksumMismatch", f"MD5 is unknown, expected {MD5}"),
    ],
)
def test_the_first_difference_is_named(expected: Content, found: Content, fault: str, detail: str) -> None:
    assert expected.differs(found) == Mismatch(fault, detail)


def test_the_source_of_what_should_be_is_named() -> None:
    assert str(Content(adler32="00000002").differs(FOUND, "the RSE says")) == (
        "adler32 is 00000001, the RSE says 00000002"
    )


def test_completed() -> None:
    assert Content(md5=OTHER).completed(FOUND) == Content(0, OTHER, "00000001")
    assert Content(0).completed(Content(1)) == Content(0)


@pytest.mark.parametrize("text", ["", "ad:", "123456789", "xyz", "-1"])
def test_no_adler32(text: str) -> None:
    with pytest.raises(ValueError, match="8 hexadecimal digits"):
        parse_adler32(text)


def test_forms_of_checksums() -> None:
    assert parse_adler32(" AD:3A4b ") == "00003a4b"
    assert parse_md5(f"md5:{MD5.upper()}") == MD5
    with pytest.raises(ValueError, match="32 hexadecimal digits"):
        parse_md5("00")
