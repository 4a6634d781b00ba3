"""The identity of a file's bytes: size and checksums, and the one way to compare them."""

from __future__ import annotations

import re
from dataclasses import dataclass

MD5_HEX = re.compile(r"[0-9a-f]{32}")
ADLER32_HEX = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The first property in which bytes differ from the expected content."""

    fault: str
    """`SizeMismatch` or `ChecksumMismatch`."""
    detail: str
    """The difference, with both values, such as ``MD5 is 0cc1…, expected 9003…``."""

    def __str__(self) -> str:
        """Return the detail alone."""
        return self.detail


@dataclass(frozen=True, slots=True)
class Content:
    """Size in bytes, MD5 and Adler-32 in lower-case hexadecimal (32 and 8 digits); None for what is not known.

    One type serves what is expected of a file, what a source states and what was found: ``expected.differs(found)``
    compares any two of them.
    """

    size: int | None = None
    md5: str | None = None
    adler32: str | None = None

    @property
    def has_checksum(self) -> bool:
        """Return whether at least one checksum is known; a size alone does not identify a file."""
        return self.md5 is not None or self.adler32 is not None

    def differs(self, found: Content, source: str = "expected") -> Mismatch | None:
        """Return how *found* differs from this content, or None if it agrees in all properties known here.

        A property unknown in *found* counts as different. *source* introduces the value of this content in the text, by
        default "expected"; another phrase can name its origin, such as "the RSE says".
        """
        if self.size is not None and self.size != found.size:
            size = "unknown" if found.size is None else f"{found.size} bytes"
            return Mismatch("SizeMismatch", f"length is {size}, {source} {self.size}")
        if self.md5 is not None and self.md5 != found.md5:
            return Mismatch("ChecksumMismatch", f"MD5 is {found.md5 or 'unknown'}, {source} {self.md5}")
        if self.adler32 is not None and self.adler32 != found.adler32:
            return Mismatch(
                "ChecksumMismatch", f"adler32 is {found.adler32 or 'unknown'}, {source} {self.adler32}"
            )
        return None

    def completed(self, other: Content) -> Content:
        """Return this content with unknown properties taken from *other*."""
        return Content(
            other.size if self.size is None else self.size,
            self.md5 or other.md5,
            self.adler32 or other.adler32,
        )


UNKNOWN = Content()


def parse_md5(text: str) -> str:
    """Return a hexadecimal MD5 in the form of `Content`; a prefix ``md5:`` is dropped. Raises ValueError."""
    value = text.strip().lower().removeprefix("md5:")
    if not MD5_HEX.fullmatch(value):
        raise ValueError(f"MD5 must be 32 hexadecimal digits, not {text[:64]!r}")
    return value


def parse_adler32(text: str) -> str:
    """Return a hexadecimal Adler-32 in the form of `Content`. Raises ValueError.

    Leading zeros may be missing, as in Rucio's checksums, and a prefix ``ad:`` is dropped.
    """
    digits = text.strip().lower().removeprefix("ad:")
    value = digits.rjust(8, "0")
    if not digits or not ADLER32_HEX.fullmatch(value):
        raise ValueError(f"adler32 must be 8 hexadecimal digits, not {text[:64]!r}")
    return value
