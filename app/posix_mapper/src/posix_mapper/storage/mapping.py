"""The two tables, with the schema of OpenCADC's, so that either service can take over the other's database."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection, Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from posix_mapper.models.entries import DEFAULT_GROUP, PosixGroup, PosixUser
from posix_mapper.models.errors import IdsExhausted, InvalidGroup

# Known names draw nothing from a sequence. On any conflict, a race for the name or an id that is taken, nothing is
# added and the caller queries again.
_ADD_USER = text(
    "INSERT INTO mapping.users (uid, username) OVERRIDING SYSTEM VALUE"
    " SELECT nextval('mapping.users_uid_seq1'), CAST(:name AS varchar)"
    " WHERE NOT EXISTS (SELECT FROM mapping.users WHERE username = :name)"
    " ON CONFLICT DO NOTHING RETURNING uid"
)
_ADD_GROUPS = text(
    "INSERT INTO mapping.groups (gid, groupuri) OVERRIDING SYSTEM VALUE"
    " SELECT nextval('mapping.groups_gid_seq1'), uri FROM unnest(CAST(:uris AS varchar[])) AS uri"
    " WHERE NOT EXISTS (SELECT FROM mapping.groups WHERE groupuri = uri)"
    " ON CONFLICT DO NOTHING"
)
_ADD_OWN_GROUP = text(
    "INSERT INTO mapping.groups (gid, groupuri) OVERRIDING SYSTEM VALUE VALUES (:gid, :uri)"
    " ON CONFLICT DO NOTHING RETURNING gid"
)
_FIND_USER = text("SELECT uid FROM mapping.users WHERE username = :name")
_FIND_GROUP = text("SELECT gid FROM mapping.groups WHERE groupuri = :uri")
_KNOWN_GROUPS = text("SELECT groupuri FROM mapping.groups WHERE groupuri = ANY(:uris)")
ATTEMPTS = 1000

logger = logging.getLogger(__name__)


class MappingStore:
    """Users and groups with their uids and gids; rows are never renamed or removed."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Use the database of *engine*."""
        self.engine = engine

    async def users(self, names: Sequence[str], uids: Sequence[int], new: Collection[str]) -> list[PosixUser]:
        """Return users by name and by uid, without unknown ones; those in *new* are created."""
        async with self.engine.begin() as connection:
            # Always in the same order, so that requests for the same new names cannot deadlock.
            for name in sorted(set(new)):
                await self._user(connection, name)
            rows = await connection.execute(
                text(
                    "SELECT username, uid FROM mapping.users"
                    " WHERE username = ANY(:names) OR uid = ANY(:uids) ORDER BY uid"
                ),
                {"names": list(names), "uids": list(uids)},
            )
            return [PosixUser(*row) for row in rows]

    async def groups(
        self, uris: Sequence[str], gids: Sequence[int], new: Collection[str]
    ) -> list[PosixGroup]:
        """Return groups by identifier and by gid, without unknown ones; those in *new* are created."""
        async with self.engine.begin() as connection:
            await self._add_groups(connection, set(new))
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
        """Reserve *uid* for *name*. Raises ``ValueError`` if either is taken.

        If a sequence reaches that uid, its row exists already and the next uid is used.
        """
        async with self.engine.begin() as connection:
            await connection.execute(
                text(
                    "INSERT INTO mapping.users (uid, username) OVERRIDING SYSTEM VALUE VALUES (:uid, :name)"
                    " ON CONFLICT DO NOTHING"
                ),
                {"uid": uid, "name": name},
            )
            found = await connection.execute(
                text("SELECT username, uid FROM mapping.users WHERE username = :name OR uid = :uid"),
                {"uid": uid, "name": name},
            )
            rows = [(username, number) for username, number in found]
            for username, _ in rows:
                if username != name:
                    # Another user with the administrator's uid would own the administrator's files.
                    raise ValueError(
                        f"POSIX_MAPPER_RESERVED_USERS: {name}:{uid} cannot be reserved: {username} has uid {uid}"
                    )
            if rows != [(name, uid)]:
                # OpenCADC's service may have assigned the name a uid before: assigned uids never change.
                logger.warning(
                    "POSIX_MAPPER_RESERVED_USERS: %s keeps uid %s and does not get %s", name, rows[0][1], uid
                )
                return
            if not await self._own_group(connection, name, uid):
                raise ValueError(
                    f"POSIX_MAPPER_RESERVED_USERS: {name}:{uid} cannot be reserved: a group has gid {uid}"
                )

    async def counts(self) -> tuple[int, int]:
        """Return the numbers of users and of groups."""
        async with self.engine.connect() as connection:
            users = await connection.scalar(text("SELECT count(*) FROM mapping.users"))
            groups = await connection.scalar(text("SELECT count(*) FROM mapping.groups"))
        return int(users or 0), int(groups or 0)

    async def check(self) -> None:
        """Raise the database's error if it is unavailable."""
        async with self.engine.connect() as connection:
            await connection.execute(text("SELECT FROM mapping.users LIMIT 1"))

    async def _user(self, connection: AsyncConnection, name: str) -> None:
        """Add a user and the user's own group, unless the user is known."""
        for _ in range(ATTEMPTS):
            step = await connection.begin_nested()
            uid = await connection.scalar(_ADD_USER, {"name": name})
            if uid is None:
                await step.commit()
                if await connection.scalar(_FIND_USER, {"name": name}) is not None:
                    return
            elif await self._own_group(connection, name, uid):
                await step.commit()
                return
            else:
                # Another group has that gid: sharing it would give its members access to the user's files.
                await step.rollback()
        raise IdsExhausted(f"no free uid for {name} among the next {ATTEMPTS}")

    @staticmethod
    async def _own_group(connection: AsyncConnection, name: str, uid: int) -> bool:
        """Ensure that the gid equal to *uid* is the user's own; return whether it is."""
        uri = DEFAULT_GROUP + name
        if await connection.scalar(_ADD_OWN_GROUP, {"gid": uid, "uri": uri}) is not None:
            return True
        return bool(await connection.scalar(_FIND_GROUP, {"uri": uri}) == uid)

    @staticmethod
    async def _add_groups(connection: AsyncConnection, uris: set[str]) -> None:
        """Add unknown groups. Users' own groups are created only with the user."""
        for _ in range(ATTEMPTS):
            # Always in the same order, as for users.
            uris = uris - set(await connection.scalars(_KNOWN_GROUPS, {"uris": list(uris)}))
            if not uris:
                return
            for uri in sorted(uris):
                if uri.startswith(DEFAULT_GROUP):
                    raise InvalidGroup(
                        f"group: {uri!r} is a user's own group; it is made with the user, by /uid"
                    )
            await connection.execute(_ADD_GROUPS, {"uris": sorted(uris)})
        raise IdsExhausted(f"no free gid for {min(uris)} among the next {ATTEMPTS}")
