"""Users and groups, and the two formats in which they are written (OpenCADC's POSIX mapper)."""

from __future__ import annotations

from dataclasses import dataclass

from voservice.auth import GROUP

from posix_mapper.models.errors import InvalidGroup

LARGEST = 2**31 - 1
"""Largest uid or gid that the tables hold."""
DEFAULT_GROUP = "ivo://default-group-should-be-ignored.opencadc.org/default-group?"
"""Beginning of the identifiers of users' own groups, whose gid is the user's uid."""


@dataclass(frozen=True)
class PosixUser:
    """A user; the default group's gid equals the uid."""

    username: str
    uid: int

    def tsv(self) -> str:
        """Name, uid and gid, separated by tabs."""
        return f"{self.username}\t{self.uid}\t{self.uid}\n"

    def text(self) -> str:
        """A line as in passwd(5)."""
        return f"{self.username}:x:{self.uid}:{self.uid}:::\n"


@dataclass(frozen=True)
class PosixGroup:
    """A group by its full identifier."""

    uri: str
    gid: int

    def tsv(self) -> str:
        """Identifier and gid, separated by a tab."""
        return f"{self.uri}\t{self.gid}\n"

    def text(self) -> str:
        """A line as in group(5)."""
        return f"{self.uri.partition('?')[2]}:x:{self.gid}:\n"


def group_uri(text: str) -> str:
    """Return *text* if it is a group identifier, else raise ``InvalidGroup``."""
    if not GROUP.match(text):
        raise InvalidGroup(f"group: {text!r} is not a group identifier such as ivo://opencadc.org/gms?team")
    return text
