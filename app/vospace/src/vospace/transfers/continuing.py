"""What a fetch notes down for the process that continues it: where its bytes are from, and which version they are of.

A file is continued from the same source alone, behind the bytes that are there, by the validator that the source gave
(RFC 9110 section 13.1.5), and only if a checksum is known of the whole: what a machine had not written when it failed
is then found out, and so is a source that gives two versions one validator.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

from pydantic import TypeAdapter, ValidationError
from voservice.answers import Representation
from voservice.content import Content


class Leftover(Protocol):
    """The file that is being filled, which another process may have begun and another may continue."""

    @property
    def note(self) -> bytes | None:
        """What the process that began it noted down; None for a new file."""
        ...

    async def adopt(self) -> None:
        """Continue behind the bytes that are there, which are counted and digested."""
        ...

    def remember(self, note: bytes | None) -> None:
        """Note down what the next process is to know; None if it cannot continue."""
        ...


@dataclass(frozen=True, slots=True)
class Note:
    """What is known of a file that has not arrived whole."""

    source: str
    """Which source it is from, by `source_key`."""
    validator: str
    stated: Content
    media_type: str | None
    encoding: str | None

    @classmethod
    def of(cls, source: str, told: Representation, stated: Content, expected: Content) -> Note | None:
        """Return what to note of a representation, None if it cannot be continued."""
        if told.validator is None or told.coding is not None or not expected.completed(stated).has_checksum:
            return None
        return cls(source_key(source), told.validator, stated, told.media_type, told.encoding)

    @classmethod
    def read(cls, text: bytes | None) -> Note | None:
        """Read a note; None for one that this version does not understand."""
        try:
            return _NOTE.validate_json(text or b"")
        except ValidationError:
            return None

    def write(self) -> bytes:
        """Return it as `read` reads it."""
        return _NOTE.dump_json(self)

    @property
    def told(self) -> Representation:
        """What the source said of the representation, as far as it is needed to continue."""
        return Representation(
            stated=self.stated, media_type=self.media_type, encoding=self.encoding, validator=self.validator
        )


_NOTE = TypeAdapter(Note)


def source_key(url: str) -> str:
    """Return what identifies a source; its query may be a secret that is another each time."""
    return hashlib.sha256(url.partition("#")[0].partition("?")[0].encode()).hexdigest()


def kept_key(job: str, row: int = 0) -> str:
    """Return the key under which a job's file is kept."""
    return hashlib.blake2b(f"{job}/{row}".encode(), digest_size=12).hexdigest()
