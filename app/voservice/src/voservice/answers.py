"""Metadata of a file in an HTTP source's response, which may be missing, malformed or ambiguous."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from voservice.content import UNKNOWN, Content
from voservice.digests import stated

IDENTITY = {"Accept-Encoding": "identity"}
"""Requests the bytes of a file without content coding (RFC 9110 section 12.5.3)."""

_DECIMAL = re.compile(r"[0-9]{1,18}")
_FIELD = re.compile(r"[!-~]([ -~]*[!-~])?")
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - the grammar's word for a name
_MEDIA_TYPE = re.compile(rf"{_TOKEN}/{_TOKEN}([ \t]*;[ -~]*)?")
_FORMS = frozenset({"application/x-www-form-urlencoded", "multipart/form-data"})
_CONTENT_RANGE = re.compile(r"bytes (?:[0-9]{1,18}-[0-9]{1,18}|\*)/([0-9]{1,18})")
# Content codings by name (RFC 9110 section 8.4.1), with the suffixes of files that are themselves compressed.
_ALIASES = {"x-gzip": "gzip", "x-compress": "compress", "x-bzip2": "bzip2"}
_SUFFIXES = {
    "gzip": (".gz", ".tgz", ".svgz"),
    "compress": (".z", ".taz"),
    "bzip2": (".bz2", ".tbz2"),
    "br": (".br",),
    "zstd": (".zst", ".tzst"),
}
_DECODED = frozenset({"gzip", "deflate"})
_PIECE = 1 << 20


class Unreadable(Exception):
    """The bytes have a content coding that was not requested and cannot be decoded."""


def field_value(text: str | None) -> str | None:
    """Return a header's value if it is printable ASCII, so that it can be forwarded."""
    return text if text is not None and _FIELD.fullmatch(text) else None


def media_type(text: str | None) -> str | None:
    """Return a Content-Type if a file may have it; those of forms are only for requests."""
    if text is None or len(text) > 255 or not _MEDIA_TYPE.fullmatch(text):
        return None
    return None if text.partition(";")[0].strip().lower() in _FORMS else text


def moment(text: str | None) -> datetime | None:
    """Parse a date; without a zone it is UTC, and a malformed one gives None."""
    try:
        found = parsedate_to_datetime(text or "")
    except (ValueError, OverflowError):  # a year or an offset that no date can have
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def seconds_asked(retry_after: str | None) -> float | None:
    """Return the seconds of a ``Retry-After``, given as a number or a date; None if missing or malformed."""
    text = (retry_after or "").strip()
    if _DECIMAL.fullmatch(text):
        return float(text)
    until = moment(text)
    return None if until is None else max(0.0, (until - datetime.now(UTC)).total_seconds())


def total_of_range(headers: Mapping[str, str]) -> int | None:
    """Return the length of the whole file from the response to a range request."""
    match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    return int(match[1]) if match else None


@dataclass(frozen=True)
class Representation:
    """Metadata of the bytes to be stored.

    ``coding`` has to be decoded first; size and checksums of the result are unknown. ``encoding`` is that of a file
    which is itself compressed, such as ``x.fits.gz``: it is stored as it is, together with its encoding.
    """

    length: int | None = None
    stated: Content = UNKNOWN
    media_type: str | None = None
    encoding: str | None = None
    coding: str | None = None
    modified: datetime | None = None
    validator: str | None = None

    @classmethod
    def of(
        cls, status: int, headers: Mapping[str, str], name: str, *, wanted: int | None = None
    ) -> Representation:
        """Parse the response for the file *name* of the expected size *wanted*. Raises Unreadable."""
        length = _length(status, headers)
        modified = moment(headers.get("Last-Modified"))
        coding = _coding(headers)
        plain = cls(
            length, stated(headers), media_type(headers.get("Content-Type")), None, None, modified, None
        )
        if coding is None or status == 204:
            return replace(plain, validator=_validator(headers))
        if _is_itself_coded(name, coding) if wanted is None or length is None else wanted == length:
            return replace(plain, encoding=coding, validator=_validator(headers))
        if coding not in _DECODED:
            raise Unreadable(f"the source sends it coded as {coding[:40]!r}, and was asked for it as it is")
        # Length and checksums are those of the coded bytes (RFC 3230 section 4.1).
        return replace(plain, length=None, stated=UNKNOWN, coding=coding)

    def stated_with(self, apart: Content) -> Content:
        """Return what is stated, and what was stated *apart* of the file, unless other bytes are sent for it."""
        return self.stated.completed(apart) if self.coding is None else self.stated

    def decoder(self) -> Decoder | None:
        """Return a decoder of the content coding, if there is one."""
        return None if self.coding is None else Decoder(self.coding)


class Decoder:
    """Decodes gzip or deflate in pieces of bounded size."""

    def __init__(self, coding: str) -> None:
        """Begin with nothing."""
        self._coding = coding
        self._stream: zlib._Decompress | None = None
        self._began = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the decoded next bytes. Raises Unreadable."""
        full = False
        try:
            while data or full:
                if self._stream is None:
                    # A gzip file may have further members, and zeros that fill a block.
                    if self._began and not (data := data.lstrip(b"\0")):
                        return
                    self._stream, self._began = zlib.decompressobj(self._window(data)), True
                piece = self._stream.decompress(data, _PIECE)
                data, full = self._stream.unconsumed_tail, len(piece) == _PIECE
                if piece:
                    yield piece
                if self._stream.eof:
                    data, full, self._stream = self._stream.unused_data, False, None
        except zlib.error as error:
            raise Unreadable(f"the source says that it is coded as {self._coding}: {error}") from None

    def end(self) -> bool:
        """Return whether the stream is complete."""
        return self._stream is None

    def _window(self, data: bytes) -> int:
        if self._coding == "gzip":
            return zlib.MAX_WBITS | 16
        # "deflate" is the zlib format (RFC 9110 section 8.4.1.2); some servers send the raw stream.
        return zlib.MAX_WBITS if data[0] & 0x0F == 8 else -zlib.MAX_WBITS


def _length(status: int, headers: Mapping[str, str]) -> int | None:
    if status == 204:
        return 0
    if status in (206, 416):
        return total_of_range(headers)
    text = headers.get("Content-Length", "").strip()
    return int(text) if "Transfer-Encoding" not in headers and _DECIMAL.fullmatch(text) else None


def _coding(headers: Mapping[str, str]) -> str | None:
    names = [name.strip().lower() for name in headers.get("Content-Encoding", "").split(",")]
    found = [_ALIASES.get(name, name) for name in names if name not in ("", "identity")]
    return ", ".join(found) or None


def _is_itself_coded(name: str, coding: str) -> bool:
    return name.lower().endswith(_SUFFIXES.get(coding, ()))


def _validator(headers: Mapping[str, str]) -> str | None:
    """Return a validator for ``If-Range`` (RFC 9110 section 13.1.5): a strong entity tag, else the modification
    time."""
    tag = headers.get("ETag")
    if tag is not None:
        return None if tag.startswith("W/") else field_value(tag)
    modified = headers.get("Last-Modified")
    return field_value(modified) if modified and modified.endswith("GMT") and moment(modified) else None
