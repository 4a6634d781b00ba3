"""The two tables, of one shape with OpenCADC's, so that either service can take over the other's database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from posix_mapper.models import PosixGroup, PosixUser

DEFAULT_GROUP = "ivo://default-group-should-be-ignored.opencadc.org/default-group?{}"

# Nothing is drawn from a sequence for a name that is known, and a race is decided by the unique constraint.
_ADD_USER = text(
    "INSERT INTO mapping.users (uid, username) OVERRIDING SYSTEM VALUE"
    " SELECT nextval('mapping.users_uid_seq1'), CAST(:name AS varchar)"
    " WHERE NOT EXISTS (SELECT FROM mapping.users WHERE username = :name)"
    " ON CONFLICT (username) DO NOTHING"
)
_ADD_GROUP = text(
    "INSERT INTO mapping.groups (gid, groupuri) OVERRIDING SYSTEM VALUE"
    " SELECT nextval('mapping.groups_gid_seq1'), CAST(:uri AS varchar)"
    " WHERE NOT EXISTS (SELECT FROM mapping.groups WHERE groupuri = :uri)"
    " ON CONFLICT (groupuri) DO NOTHING"
)
_DEFAULT_GROUP = text(
    "INSERT INTO mapping.groups (gid, groupuri) OVERRIDING SYSTEM VALUE VALUES (:gid, :uri) ON CONFLICT DO NOTHING"
)


class MappingStore:
    """Users and groups and their numbers; nothing is ever renamed or removed."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Use the database of *engine*."""
        self.engine = engine

    async def users(self, names: Sequence[str], uids: Sequence[int]) -> list[PosixUser]:
        """Users by name, made where unknown, and by uid, left out where unknown."""
        async with self.engine.begin() as connection:
            for name in names:
                await self._user(connection, name)
            rows = await connection.execute(
                text(
                    "SELECT username, uid FROM mapping.users"
                    " WHERE username = ANY(:names) OR uid = ANY(:uids) ORDER BY uid"
                ),
                {"names": list(names), "uids": list(uids)},
            )
            return [PosixUser(*row) for row in rows]

    async def groups(self, uris: Sequence[str], gids: Sequence[int]) -> list[PosixGroup]:
        """Groups by identifier, made where unknown, and by gid, left out where unknown."""
        async with self.engine.begin() as connection:
            for uri in uris:
                await connection.execute(_ADD_GROUP, {"uri": uri})
            rows = await connection.execute(
                text(
                    "SELECT groupuri, gid FROM mapping.groups"
                    " WHERE groupuri = ANY(:uris) OR gid = ANY(:gids) ORDER BY gid"
                ),
                {"uris": list(uris), "gids": list(gids)},
            )
            return [PosixGroup(*row) for row in rows]

    async def all_users(self) -> AsyncIterator[PosixUser]:
        """Every user, a few at a time."""
        async with self.engine.connect() as connection:
            async for row in await connection.stream(
                text("SELECT username, uid FROM mapping.users ORDER BY uid")
            ):
                yield PosixUser(*row)

    async def all_groups(self) -> AsyncIterator[PosixGroup]:
        """Every group, a few at a time."""
        async with self.engine.connect() as connection:
            async for row in await connection.stream(
                text("SELECT groupuri, gid FROM mapping.groups ORDER BY gid")
            ):
                yield PosixGroup(*row)

    async def reserve(self, name: str, uid: int) -> None:
        """Give *name* the number *uid* before anybody else has either; raises ``ValueError`` if that is too late."""
        async with self.engine.begin() as connection:
            await connection.execute(
                text(
                    "INSERT INTO mapping.users (uid, username) OVERRIDING SYSTEM VALUE VALUES (:uid, :name)"
                    " ON CONFLICT DO NOTHING"
                ),
                {"uid": uid, "name": name},
            )
            await connection.execute(_DEFAULT_GROUP, {"gid": uid, "uri": DEFAULT_GROUP.format(name)})
            found = await connection.execute(
                text("SELECT username, uid FROM mapping.users WHERE username = :name OR uid = :uid"),
                {"uid": uid, "name": name},
            )
            for username, number in found:
                if (username, number) != (name, uid):
                    raise ValueError(f"{name}:{uid} cannot be reserved: {username} has uid {number}")

    async def check(self) -> None:
        """Raise what the database raises, if it cannot answer."""
        async with self.engine.connect() as connection:
            await connection.execute(text("SELECT FROM mapping.users LIMIT 1"))

    @staticmethod
    async def _user(connection: AsyncConnection, name: str) -> None:
        added = await connection.execute(_ADD_USER, {"name": name})
        if added.rowcount:
            uid = await connection.scalar(
                text("SELECT uid FROM mapping.users WHERE username = :name"), {"name": name}
            )
            await connection.execute(_DEFAULT_GROUP, {"gid": uid, "uri": DEFAULT_GROUP.format(name)})
