"""Changes requested by node documents."""

from __future__ import annotations

from collections.abc import Mapping

from voservice.auth import GROUP
from vospace_client import terms
from vospace_client.terms import LOCKED

from vospace import documents
from vospace.documents import NodeDocument
from vospace.models.errors import InvalidArgument
from vospace.models.node import Change
from vospace.models.sizes import byte_count
from vospace.services.identities import Identities

_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}
_HANDLED = frozenset({terms.PUBLIC, terms.GROUP_READ, terms.GROUP_WRITE, terms.INHERIT})


class Changes:
    """Turns documents into changes, with the gids of the groups they name."""

    def __init__(self, identities: Identities) -> None:
        self._identities = identities

    async def of(self, document: NodeDocument, *, admin: bool = False) -> Change:
        """Return the change that `document` requests; other properties stay unchanged.

        Read-only properties are ignored, since clients send whole documents back; an `admin` may set the quota. Raises
        InvalidArgument.
        """
        given = document.properties
        properties: dict[str, str | None] = {}
        for key, value in given.items():
            if key in _HANDLED:
                continue
            if key == terms.QUOTA and admin:
                if value is not None and byte_count(value) is None:
                    raise InvalidArgument(f"quota must be a number of bytes, not {value[:40]!r}")
                properties[key] = value
            elif key == LOCKED:
                properties[key] = "true" if value is not None and _BOOLEANS.get(value.lower()) else None
            elif key not in documents.READ_ONLY:
                if value is not None:
                    documents.check_key(key)
                properties[key] = value or None
        return Change(
            public=_flag(given, terms.PUBLIC),
            read_gids=await self._groups(given, terms.GROUP_READ),
            write_gids=await self._groups(given, terms.GROUP_WRITE),
            inherits=_flag(given, terms.INHERIT),
            properties=properties,
        )

    async def _groups(self, given: Mapping[str, str | None], key: str) -> frozenset[int] | None:
        if key not in given:
            return None
        groups = (given[key] or "").split()
        for uri in groups:
            if not GROUP.match(uri):
                raise InvalidArgument(f"{key}: not a group: {uri[:120]}")
        if foreign := [uri for uri in groups if not self._identities.is_local(uri)]:
            raise InvalidArgument(f"non-local groups: {' '.join(foreign)[:300]}")
        return await self._identities.gids(groups)


def names_groups(document: NodeDocument) -> bool:
    """Return whether a document names groups, which then get gids if they have none."""
    return any(document.properties.get(key) for key in (terms.GROUP_READ, terms.GROUP_WRITE))


def _flag(given: Mapping[str, str | None], key: str) -> bool | None:
    if key not in given:
        return None
    value = given[key]
    if value is None:
        return False
    if value.lower() not in _BOOLEANS:
        raise InvalidArgument(f"{key} must be true or false, not {value[:40]!r}")
    return _BOOLEANS[value.lower()]
