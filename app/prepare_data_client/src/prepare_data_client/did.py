"""Data identifiers (DIDs) and where Rucio's deterministic layouts put them on a storage element.

The client derives paths with the code by which the service validates them.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

# Rucio's generic schema; a virtual organisation may have another.
SCOPE = re.compile(r"[A-Za-z0-9_.-]{1,25}")
NAME = re.compile(r"[A-Za-z0-9/][A-Za-z0-9_./-]{0,249}")
# Forbidden in names: control characters, lone surrogates, what XML does not allow, and the backslash.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\\]")

Algorithm = Literal["hash", "identity"]


class InvalidDID(ValueError):
    """The text is not a data identifier; the message says why."""


class InvalidPath(ValueError):
    """The text is not a permitted path; the message says why."""


@dataclass(frozen=True)
class DID:
    """A data identifier: `scope:name`."""

    scope: str
    name: str

    @classmethod
    def parse(cls, text: str) -> DID:
        """Read `scope:name`, divided at the first colon."""
        scope, colon, name = text.partition(":")
        if not colon:
            raise InvalidDID(f"{text!r} is not scope:name")
        if not SCOPE.fullmatch(scope) or scope in {".", ".."}:
            raise InvalidDID(f"{text!r}: the scope must be 1 to 25 letters, digits, '_', '.' or '-'")
        if not NAME.fullmatch(name):
            raise InvalidDID(f"{text!r}: the name must be 1 to 250 letters, digits, '_', '.', '/' or '-'")
        try:
            _segments(name.lstrip("/"))
        except InvalidPath as exc:
            raise InvalidDID(f"{text!r}: {exc}") from exc
        return cls(scope, name)

    def __str__(self) -> str:
        """Return `scope:name`."""
        return f"{self.scope}:{self.name}"

    def path(self, algorithm: Algorithm = "hash") -> str:
        """Return the path below the root of a deterministic storage element (Rucio's `rse/translation.py`).

        The name is kept as it is, so that one with a leading slash follows another slash: the same place in a file
        system, and the key under which Rucio writes it to an object store.
        """
        # A literal prefix, which `users_x` and `groupie` have too, as in Rucio.
        scope = self.scope.replace(".", "/") if self.scope.startswith(("user", "group")) else self.scope
        if algorithm == "identity":
            return f"{scope}/{self.name}"
        digest = hashlib.md5(str(self).encode(), usedforsecurity=False).hexdigest()
        return f"{scope}/{digest[:2]}/{digest[2:4]}/{self.name}"

    def check(self, path: str) -> None:
        """Raise `InvalidPath` for a path that this file cannot have on any RSE."""
        if path.endswith(f"/{self.name}"):
            path = path.removesuffix(self.name) + self.relative_name
        relative(path)

    def lies_at(self, path: str, algorithm: Algorithm = "hash") -> bool:
        """Whether *path* is the deterministic one, regardless of leading slashes of the name."""
        expected = self.path(algorithm)
        return path in {expected, expected.removesuffix(self.name) + self.relative_name}

    @property
    def relative_name(self) -> str:
        """Name without leading slashes, as it is used below a directory."""
        return self.name.lstrip("/")


def relative(text: str) -> tuple[str, ...]:
    """Return the segments of a path on the RSE, relative to its root. Raises `InvalidPath`.

    The path passes through other servers, so it must not contain what any of them might decode once more.
    """
    for character in "?#":
        if character in text:
            raise InvalidPath(f"a path must not hold {character!r}")
    if "%2e" in text.lower() or "%2f" in text.lower():
        raise InvalidPath("a path must not be percent-encoded")
    return _segments(text)


def destination(text: str) -> tuple[str, ...]:
    """Return the segments of a directory below the user's area: `./testing` and `testing/` are the same, `.` has none.

    Names are taken literally: blanks are part of them, and `%41` is not `A`. Raises `InvalidPath`.
    """
    trimmed = text
    while trimmed.startswith("./"):
        trimmed = trimmed[2:].lstrip("/")
    trimmed = trimmed.rstrip("/")
    if trimmed in {"", "."}:
        if not text or text.startswith("/"):
            raise InvalidPath("a destination must be relative to the user's area, such as ./testing")
        return ()
    if trimmed.isspace():
        raise InvalidPath("a destination must not be blank")
    return _segments(trimmed)


def _segments(text: str) -> tuple[str, ...]:
    if not text:
        raise InvalidPath("a path must not be empty")
    if text.startswith("/"):
        raise InvalidPath("a path must be relative")
    if found := UNPRINTABLE.search(text):
        raise InvalidPath(f"a path must not hold {found[0]!r}")
    if len(text.encode()) > 1024:
        raise InvalidPath("a path must not be longer than 1024 bytes")
    segments = tuple(text.split("/"))
    for segment in segments:
        if segment in {"", ".", ".."}:
            raise InvalidPath("a path must not have the segments '', '.' or '..'")
        if len(segment.encode()) > 255:
            raise InvalidPath("a segment must not be longer than 255 bytes")
    return segments
