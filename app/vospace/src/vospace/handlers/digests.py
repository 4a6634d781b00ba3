"""Digests of a file's bytes in HTTP: what a request states of them and wants to know, and what an answer tells.

Stored are a file's bytes as they were sent, so that of a whole file content and representation are the same.
`Content-MD5` is RFC 1864's, `Digest` and `Want-Digest` are RFC 3230's, and the fields with `Repr-` and `Content-`
RFC 9530's: by their rules unknown algorithms are passed over, and what is no structured field is not there.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import http_sf
from starlette.datastructures import Headers
from voservice.digests import ADLER32, MD5
from vospace_client import terms

from vospace.models.errors import ChecksumMismatch, InvalidArgument
from vospace.space.receive import Receiver

_SIZES = {MD5: 16, ADLER32: 4, "sha1": 20, "sha256": 32, "sha512": 64}
_INSTANCE = {"md5": MD5, "adler32": ADLER32, "sha": "sha1", "sha-256": "sha256", "sha-512": "sha512"}
"""Algorithms as RFC 3230 has them registered."""
_FIELD = {"md5": MD5, "adler": ADLER32, "sha": "sha1", "sha-256": "sha256", "sha-512": "sha512"}
"""Algorithms as RFC 9530 has them registered."""
_ADLER32_HEX = re.compile(r"[0-9A-Fa-f]{1,8}")
_QUALITY = re.compile(r"\s*q\s*=\s*(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Digest:
    field: str
    algorithm: str
    value: bytes


class Stated:
    """Digests that a request states of its body."""

    def __init__(self, headers: Headers) -> None:
        """Raises InvalidArgument for what cannot be read."""
        self._digests = [*_content_md5(headers), *_instance(headers)]
        for field in ("Content-Digest", "Repr-Digest"):
            self._digests += _structured(headers, field)

    @property
    def algorithms(self) -> frozenset[str]:
        """Names of all algorithms that have to be computed to verify them."""
        return frozenset(digest.algorithm for digest in self._digests)

    def verify(self, received: Receiver) -> None:
        """Raises ChecksumMismatch if the bytes that have arrived are others."""
        for stated in self._digests:
            found = received.digest(stated.algorithm)
            if found != stated.value:
                raise ChecksumMismatch(
                    f"checksum mismatch: {stated.field}: {stated.algorithm} {stated.value.hex()} != {found.hex()}"
                )


class Known:
    """Digests of a file that are known without reading it."""

    def __init__(self, properties: Mapping[str, str | None]) -> None:
        """`properties`: of its node."""
        found = {MD5: properties.get(terms.MD5), ADLER32: properties.get(terms.ADLER32)}
        self._values = {
            algorithm: raw for algorithm, text in found.items() if (raw := _raw(algorithm, text)) is not None
        }

    def instance(self, asked: Headers) -> dict[str, str]:
        """`Digest`: the MD5, or what `Want-Digest` accepts, the best first."""
        wanted = _wanted_instance(asked) if "want-digest" in asked else ["md5"]
        parts = []
        for name in wanted:
            if (value := self._values.get(_INSTANCE[name])) is not None:
                parts.append(f"{name}={value.hex() if name == 'adler32' else _base64(value)}")
        return {"Digest": ", ".join(parts)} if parts else {}

    def all(self, asked: Headers, *, whole: bool) -> dict[str, str]:
        """All fields for an answer; `whole`: whether its content is the whole file."""
        told = self.instance(asked)
        told |= self._structured("Repr-Digest", _wanted(asked, "want-repr-digest", default=True))
        if whole:
            told |= self._structured("Content-Digest", _wanted(asked, "want-content-digest", default=False))
        return told

    def _structured(self, field: str, wanted: list[str]) -> dict[str, str]:
        found = {name: value for name in wanted if (value := self._values.get(_FIELD[name])) is not None}
        return (
            {field: ", ".join(f"{name}=:{_base64(value)}:" for name, value in found.items())} if found else {}
        )


def _content_md5(headers: Headers) -> Iterator[_Digest]:
    for text in headers.getlist("content-md5"):
        yield _Digest("Content-MD5", MD5, _decoded("Content-MD5", MD5, text.strip()))


def _instance(headers: Headers) -> Iterator[_Digest]:
    for part in ",".join(headers.getlist("digest")).split(","):
        name, _, text = part.strip().partition("=")
        if (algorithm := _INSTANCE.get(name.lower())) is not None:
            yield _Digest("Digest", algorithm, _decoded(f"Digest: {name.lower()}", algorithm, text))


def _structured(headers: Headers, field: str) -> Iterator[_Digest]:
    for name, value in _dictionary(headers, field).items():
        if name in _FIELD and isinstance(value, bytes):
            yield _Digest(field, _FIELD[name], value)


def _dictionary(headers: Headers, field: str) -> dict[str, object]:
    """Members of a structured field without their parameters; none if it cannot be read (RFC 9651 section 4.2)."""
    if field not in headers:
        return {}
    text = ", ".join(headers.getlist(field)).encode("latin-1")
    try:
        found = cast("dict[str, tuple[object, object]]", http_sf.parse(text, tltype="dictionary"))
    except ValueError:
        return {}
    return {name: value for name, (value, _) in found.items()}


def _wanted_instance(asked: Headers) -> list[str]:
    """Algorithms of `Want-Digest` that we know, the best first; a quality of 0 refuses one."""
    weights = {}
    for part in ",".join(asked.getlist("want-digest")).split(","):
        name, _, parameter = part.partition(";")
        quality = _QUALITY.fullmatch(parameter)
        if (name := name.strip().lower()) in _INSTANCE and (quality or not parameter.strip()):
            weights[name] = float(quality[1]) if quality else 1.0
    return _best_first(weights)


def _wanted(asked: Headers, field: str, *, default: bool) -> list[str]:
    """As above for fields of RFC 9530, whose weights are 0 to 10. `default`: whether all are, if it says nothing."""
    members = _dictionary(asked, field)
    if not members:
        return list(_FIELD) if default else []
    return _best_first(
        {
            name: weight
            for name, weight in members.items()
            if name in _FIELD and isinstance(weight, int) and not isinstance(weight, bool)
        }
    )


def _best_first(weights: Mapping[str, float]) -> list[str]:
    return sorted(
        (name for name, weight in weights.items() if weight > 0), key=weights.__getitem__, reverse=True
    )


def _decoded(what: str, algorithm: str, text: str) -> bytes:
    """Raises InvalidArgument."""
    if algorithm == ADLER32:
        if not _ADLER32_HEX.fullmatch(text):
            raise InvalidArgument(f"{what} must be 8 hexadecimal digits")
        return bytes.fromhex(text.rjust(8, "0"))
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != _SIZES[algorithm]:
        raise InvalidArgument(f"{what} must be the base64 of {_SIZES[algorithm]} bytes")
    return raw


def _raw(algorithm: str, text: str | None) -> bytes | None:
    """A stored checksum; None for what is none, which those who mount the space may have written."""
    try:
        raw = bytes.fromhex(text or "")
    except ValueError:
        return None
    return raw if len(raw) == _SIZES[algorithm] else None


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()
