"""Rules of the mapping: which users and groups a caller finds, and which names get a uid or gid."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence

from voservice.auth import USERNAME, Identity, client_of

from posix_mapper.models.entries import LARGEST, PosixGroup, PosixUser, group_uri
from posix_mapper.models.errors import BadParameter
from posix_mapper.storage.mapping import MappingStore

MOST_DIGITS = 20
ANYBODY = "any"
"""The registrar that stands for every caller."""


class Mapping:
    """Users and groups that a caller may query."""

    def __init__(
        self, store: MappingStore, administrators: Collection[str], registrars: Collection[str]
    ) -> None:
        """Query *store*; *administrators* are users, *registrars* the ids of OAuth clients."""
        self._store = store
        self._administrators = frozenset(administrators)
        self._registrars = frozenset(registrars)

    async def users(self, caller: Identity, names: Sequence[str], uids: Sequence[str]) -> list[PosixUser]:
        """Return users by name and by the uids in *uids*. Raises `BadParameter`."""
        for name in names:
            if not USERNAME.match(name):
                raise BadParameter(f"user: {name!r} is not a user name: letters, digits and _.@-")
        numbers = [number("uid", text) for text in uids]
        new = names if self._may_register(caller) else [name for name in names if name == caller.username]
        return await self._store.users(names, numbers, new)

    async def groups(self, caller: Identity, uris: Sequence[str], gids: Sequence[str]) -> list[PosixGroup]:
        """Return groups by identifier and by the gids in *gids*. Raises `BadParameter`."""
        wanted = [group_uri(uri) for uri in uris]
        numbers = [number("gid", text) for text in gids]
        return await self._store.groups(wanted, numbers, wanted if self._may_register(caller) else [])

    def all_users(self) -> AsyncIterator[PosixUser]:
        """Return every user, a few at a time."""
        return self._store.all_users()

    def all_groups(self) -> AsyncIterator[PosixGroup]:
        """Return every group, a few at a time."""
        return self._store.all_groups()

    def _may_register(self, caller: Identity) -> bool:
        """Return whether names that the caller queries get a uid or gid: a row is permanent and readable by all."""
        return (
            caller.username in self._administrators
            or ANYBODY in self._registrars
            or client_of(caller.claims) in self._registrars
        )


def number(name: str, text: str) -> int:
    """Return the uid or gid in *text*. Raises `BadParameter`, naming the parameter *name*."""
    if not text.isdecimal() or len(text) > MOST_DIGITS or int(text) > LARGEST:
        raise BadParameter(f"{name}: {text!r} is not a number from 0 to {LARGEST}")
    return int(text)
