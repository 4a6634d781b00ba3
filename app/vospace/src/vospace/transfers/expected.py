"""Checksums and length that callers expect of a file's bytes."""

from __future__ import annotations

from dataclasses import dataclass

from voservice.digests import ADLER32_HEX, MD5_HEX


@dataclass(frozen=True, slots=True)
class Expected:
    """What the bytes must be, as far as it is known: length in bytes, checksums in lower-case hex."""

    length: int | None = None
    md5: str | None = None
    adler32: str | None = None

    def mismatch(self, length: int, md5: str, adler32: str) -> str | None:
        """What is wrong with bytes of these measures, None if nothing. A wrong length begins with `length`."""
        if self.length is not None and length != self.length:
            return f"length is {length} bytes, expected {self.length}"
        if self.md5 is not None and md5 != self.md5:
            return f"MD5 is {md5}, expected {self.md5}"
        if self.adler32 is not None and adler32 != self.adler32:
            return f"adler32 is {adler32}, expected {self.adler32}"
        return None


def md5_hex(text: str) -> str:
    """A hexadecimal MD5 in the form we store. Raises ValueError."""
    value = text.strip().lower().removeprefix("md5:")
    if not MD5_HEX.fullmatch(value):
        raise ValueError(f"MD5 must be 32 hexadecimal digits, not {text[:64]!r}")
    return value


def adler32_hex(text: str) -> str:
    """A hexadecimal Adler-32 of eight digits; leading zeros may be missing, as Rucio writes it. Raises ValueError."""
    digits = text.strip().lower().removeprefix("ad:")
    value = digits.rjust(8, "0")
    if not digits or not ADLER32_HEX.fullmatch(value):
        raise ValueError(f"adler32 must be 8 hexadecimal digits, not {text[:64]!r}")
    return value
