"""Data identifiers (DIDs) and where Rucio's deterministic layouts put them on a storage element.

Only the standard library is used here: the client works paths out with the same code that core checks them with.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

# Rucio's generic schema; a virtual organisation may have another.
SCOPE = re.compile(r"[A-Za-z0-9_.-]{1,25}")
NAME = re.compile(r"[A-Za-z0-9/][A-Za-z0-9_./-]{0,249}")

Algorithm = Literal["hash", "identity"]


class InvalidDID(ValueError):
    """The text is no data identifier; the message says why."""


class InvalidPath(ValueError):
    """The text is no path that may be used; the message says why."""


@dataclass(frozen=True)
class DID:
    """A data identifier: ``scope:name``."""

    scope: str
    name: str

    @classmethod
    def parse(cls, text: str) -> DID:
        """Read ``scope:name``, divided at the first colon."""
        scope, colon, name = text.partition(":")
        if not colon:
            raise InvalidDID(f"{text!r} is not scope:name")
        if not SCOPE.fullmatch(scope) or scope in {".", ".."}:
            raise InvalidDID(f"{text!r}: the scope must be 1 to 25 letters, digits, '_', '.' or '-'")
        if not NAME.fullmatch(name):
            raise InvalidDID(f"{text!r}: the name must be 1 to 250 letters, digits, '_', '.', '/' or '-'")
        try:
            relative(name.lstrip("/"))
        except InvalidPath as exc:
            raise InvalidDID(f"{text!r}: {exc}") from exc
        return cls(scope, name)

    def __str__(self) -> str:
        """Return ``scope:name``."""
        return f"{self.scope}:{self.name}"

    def path(self, algorithm: Algorithm = "hash") -> str:
        """Path below the root of a deterministic storage element (rucio ``rse/translation.py``)."""
        # A literal prefix, so that users_x or groupie are affected too, as in Rucio.
        scope = self.scope.replace(".", "/") if self.scope.startswith(("user", "group")) else self.scope
        if algorithm == "identity":
            return f"{scope}/{self.name}"
        digest = hashlib.md5(str(self).encode(), usedforsecurity=False).hexdigest()
        return f"{scope}/{digest[:2]}/{digest[2:4]}/{self.name}"


def relative(text: str) -> tuple[str, ...]:
    """Segments of a relative path that stays below where it starts; ``InvalidPath`` for any other."""
    if not text:
        raise InvalidPath("a path must not be empty")
    if text.startswith("/"):
        raise InvalidPath("a path must be relative")
    if len(text.encode()) > 1024:
        raise InvalidPath("a path must not be longer than 1024 bytes")
    for character in text:
        if character < " " or character in "\\?#\x7f":
            raise InvalidPath(f"a path must not hold {character!r}")
    if "%2e" in text.lower() or "%2f" in text.lower():
        raise InvalidPath("a path must not be percent-encoded")
    segments = tuple(text.split("/"))
    for segment in segments:
        if segment in {"", ".", ".."}:
            raise InvalidPath("a path must not have the segments '', '.' or '..'")
        if len(segment.encode()) > 255:
            raise InvalidPath("a segment must not be longer than 255 bytes")
    return segments


def destination(text: str) -> tuple[str, ...]:
    """Segments of a directory below the user's area: ``./testing`` and ``testing/`` are the same, ``.`` is none."""
    trimmed = text.strip()
    while trimmed.startswith("./"):
        trimmed = trimmed[2:].lstrip("/") if trimmed != "./" else ""
    trimmed = trimmed.rstrip("/")
    if trimmed in {"", "."}:
        if not text.strip() or text.strip().startswith("/"):
            raise InvalidPath("a destination must be relative to the user's area, such as ./testing")
        return ()
    return relative(trimmed)
