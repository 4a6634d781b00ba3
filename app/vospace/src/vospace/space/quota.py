"""Find the quota that applies to a location, and how much of it is left."""

from __future__ import annotations

from contextlib import suppress

from vospace.models.errors import Fault
from vospace.models.uri import Path
from vospace.space.access import Access, Rules
from vospace.space.lookup import Located
from vospace.space.usage import Usage
from vospace.storage.tree import Tree, Walk


class Quotas:
    """The current quotas of containers."""

    def __init__(self, rules: Rules, tree: Tree, usage: Usage) -> None:
        self._rules = rules
        self._tree = tree
        self._usage = usage

    def left(self, place: Located, size: int = 1) -> int | None:
        """Return the bytes that may be written there, None without a quota.

        Raises QuotaExceeded if they are fewer than `size`.
        """
        quota = self.of(place)
        return None if quota is None else self._usage.left(*quota, size)

    def of(self, place: Located) -> tuple[Path, int] | None:
        """Return the container whose quota applies to writes there, and its current quota."""
        edition = self._usage.edition
        if edition != place.access.edition:
            access = Access(self._rules, place.access.caller)
            with suppress(Fault):  # moved in the meantime: the quota that was found still applies
                Walk(self._tree, access.note).container(place.directory.path).close()
                place.access.quota, place.access.edition = access.quota, edition
        return place.access.quota

    def forget(self, place: Located) -> None:
        if place.access.quota is not None:
            self._usage.forget(place.access.quota[0])
