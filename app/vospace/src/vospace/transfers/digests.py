"""Checksums of a file's bytes: computed in one pass, stated by headers, expected by callers."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from zlib_ng import zlib_ng

MD5_HEX = re.compile(r"[0-9a-f]{32}")
ADLER32_HEX = re.compile(r"[0-9a-f]{8}")

WANT_DIGEST = {"Want-Digest": "adler32, md5;q=0.9"}
"""Storage elements tell the checksums that they keep to those who ask (RFC 3230)."""


class Digester:
    """MD5 and Adler-32 over bytes as they pass. One thread at a time may update each of them."""

    __slots__ = ("_adler32", "_md5")

    def __init__(self) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._adler32 = 1

    def update(self, data: bytes | bytearray | memoryview) -> None:
        self.update_md5(data)
        self.update_adler32(data)

    def update_md5(self, data: bytes | bytearray | memoryview) -> None:
        self._md5.update(data)

    def update_adler32(self, data: bytes | bytearray | memoryview) -> None:
        # zlib's own takes a fifth of the time that the MD5 takes, this one a hundredth.
        self._adler32 = zlib_ng.adler32(data, self._adler32)

    @property
    def md5(self) -> str:
        """32 hexadecimal digits."""
        return self._md5.hexdigest()

    @property
    def adler32(self) -> str:
        """8 hexadecimal digits."""
        return f"{self._adler32:08x}"


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


def stated(headers: Mapping[str, str]) -> Expected:
    """What a source says of the whole file in `Digest` (RFC 3230) and `Content-MD5`; what cannot be read is ignored."""
    md5 = adler32 = None
    for part in headers.get("Digest", "").split(","):
        algorithm, _, value = part.strip().partition("=")
        if algorithm.lower() == "md5":
            md5 = _base64_md5(value)
        elif algorithm.lower() == "adler32" and ADLER32_HEX.fullmatch(value.lower().rjust(8, "0")):
            adler32 = value.lower().rjust(8, "0")
    return Expected(md5=md5 or _base64_md5(headers.get("Content-MD5", "")), adler32=adler32)


def _base64_md5(text: str) -> str | None:
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    return raw.hex() if len(raw) == 16 else None
