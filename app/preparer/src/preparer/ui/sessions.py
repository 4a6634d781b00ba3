"""Sessions of the page, in the ledger's database, so that any process can serve them, and signing out ends them.

A row holds the digest of the cookie and the user's tokens, encrypted: neither a copy of the database nor the key alone
lets anybody act as a user.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    Column,
    DateTime,
    Index,
    LargeBinary,
    MetaData,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine
from voservice import database

from preparer.config import PreparerSettings
from preparer.ui.sealing import Seal

MOST = 20
"""Sessions of one user; the oldest one makes room for a new one."""
RENEWING = 4
"""Sessions that are renewed at a time: each keeps a connection while the issuer answers, and others want some too."""
metadata = MetaData()
now = func.clock_timestamp()
sessions = Table(
    "page_sessions",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("username", Text, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("created", DateTime(timezone=True), nullable=False, server_default=now),
    Column("expires", DateTime(timezone=True), nullable=False),
    Index("page_sessions_user", "username", "created"),
    Index("page_sessions_expires", "expires"),
)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tokens:
    """Tokens of a user; `expires`, in seconds of the epoch, is the access token's end."""

    access: str
    expires: float
    refresh: str | None = None


class Sessions:
    """Makes, finds, renews and ends sessions."""

    def __init__(self, settings: PreparerSettings, engine: AsyncEngine) -> None:
        """Use the ledger's database."""
        self._engine = engine
        self._single = database.reader(engine)
        self._seal = Seal(settings, "session")
        self._renewing = asyncio.Semaphore(RENEWING)
        self.age = settings.preparer_page_session
        """Seconds after which a session ends."""

    async def begin(self, username: str, tokens: Tokens, former: str | None) -> str:
        """Return the secret of a new session, for the cookie; the *former* one of this browser ends."""
        secret = secrets.token_urlsafe(32)
        older = (
            select(sessions.c.id)
            .where(sessions.c.username == username)
            .order_by(sessions.c.created.desc())
            .offset(MOST - 1)
        )
        async with self._engine.begin() as connection:
            if former is not None:
                await connection.execute(delete(sessions).where(sessions.c.id == _digest(former)))
            await connection.execute(
                delete(sessions).where((sessions.c.expires < now) | sessions.c.id.in_(older))
            )
            await connection.execute(
                insert(sessions).values(
                    id=_digest(secret),
                    username=username,
                    sealed=self._seal.close(asdict(tokens)),
                    expires=now + timedelta(seconds=self.age),
                )
            )
        return secret

    async def find(self, secret: str) -> Tokens | None:
        """Return the tokens of a session that has not ended."""
        async with self._single.connect() as connection:
            return self._read(await connection.scalar(_find(secret)))

    async def renew(
        self, secret: str, used: Tokens, obtain: Callable[[Tokens], Awaitable[Tokens | None]]
    ) -> Tokens | None:
        """Return tokens newer than *used*, which one of all processes obtains; None ends the session."""
        async with self._renewing, self._engine.begin() as connection:
            present = self._read(await connection.scalar(_find(secret).with_for_update()))
            if present is None or present.access != used.access:
                return present
            fresh = await obtain(present)
            mine = sessions.c.id == _digest(secret)
            if fresh is None:
                await connection.execute(delete(sessions).where(mine))
            else:
                await connection.execute(
                    update(sessions).where(mine).values(sealed=self._seal.close(asdict(fresh)))
                )
            return fresh

    async def end(self, secret: str) -> Tokens | None:
        """End a session; returns its tokens, for the issuer to be told."""
        async with self._engine.begin() as connection:
            ended = delete(sessions).where(sessions.c.id == _digest(secret)).returning(sessions.c.sealed)
            return self._read(await connection.scalar(ended))

    def _read(self, sealed: bytes | None) -> Tokens | None:
        if sealed is None:
            return None
        document = self._seal.open(sealed)
        if document is None:
            logger.warning("A session cannot be read with the present key")
            return None
        return Tokens(**document)


def _find(secret: str) -> Any:
    return select(sessions.c.sealed).where(sessions.c.id == _digest(secret), sessions.c.expires > now)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
