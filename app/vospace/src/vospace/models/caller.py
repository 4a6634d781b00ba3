"""The caller of a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from vospace.models.errors import PermissionDenied

Method = Literal["anonymous", "token", "certificate"]
Ids = tuple[int, int]
"""uid and gid of an owner."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller with uid and gids in the file system.

    `gids` are those of all groups, including the user's own; `groups` has the groups' names. The caller also owns what
    belongs to the uids in `further`. If the caller is `trusted`, as requests of prepare-data are, files are pulled
    with the credentials of storage elements.
    """

    username: str | None = None
    uid: int | None = None
    gid: int | None = None
    gids: frozenset[int] = frozenset()
    groups: frozenset[str] = frozenset()
    method: Method = "anonymous"
    further: frozenset[int] = frozenset()
    trusted: bool = False

    @property
    def anonymous(self) -> bool:
        return self.uid is None

    @property
    def ids(self) -> Ids:
        """Return uid and gid of nodes that the caller creates. Raises PermissionDenied for an anonymous caller."""
        if self.uid is None or self.gid is None:
            raise PermissionDenied("anonymous callers own nothing")
        return self.uid, self.gid

    def owns(self, *uids: int | None) -> bool:
        """Return whether one of the uids is the caller's."""
        return self.uid is not None and (self.uid in uids or not self.further.isdisjoint(uids))

    def record(self) -> dict[str, Any]:
        """Return the part of the caller that a job stores, without credentials."""
        return {
            "username": self.username,
            "uid": self.uid,
            "gid": self.gid,
            "gids": sorted(self.gids),
            "groups": sorted(self.groups),
            "method": self.method,
            "further": sorted(self.further),
            "trusted": self.trusted,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any] | None) -> Caller:
        if record is None:
            return ANONYMOUS
        return cls(
            username=record["username"],
            uid=record["uid"],
            gid=record["gid"],
            gids=frozenset(record["gids"]),
            groups=frozenset(record["groups"]),
            method=record["method"],
            further=frozenset(record.get("further", ())),
            trusted=record.get("trusted", False),
        )


ANONYMOUS = Caller()
