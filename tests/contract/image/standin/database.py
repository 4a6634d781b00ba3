"""PostgreSQL as the real services use it: a pool of connections, and tables in a schema that is there already."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

# What the real pool waits for a connection, in s.
PATIENCE = 20


class Pool:
    """At most *size* connections of one account: made at need, used again, and made anew after the database went."""

    def __init__(self, size: int, dsn: str, user: str, password: str) -> None:
        """Connect to nothing yet."""
        self._options = {
            "dsn": dsn,
            "user": user,
            "password": password,
            "min_size": 0,
            "max_size": size,
            "timeout": PATIENCE,
        }
        self._pool: Any = None
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """Lend a connection."""
        async with self._lock:
            if self._pool is None:
                driver: Any = asyncpg
                self._pool = await driver.create_pool(**self._options)
        async with self._pool.acquire(timeout=PATIENCE) as connection:
            yield connection


async def own_schema(connection: Any, schema: str) -> None:
    """A schema is never made by a service, and its tables and grants only in one that its account owns."""
    owner = await connection.fetchval(
        "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = $1", schema
    )
    if owner is None:
        raise RuntimeError(f'schema "{schema}" does not exist')
    await connection.execute(f'GRANT USAGE ON SCHEMA "{schema}" TO PUBLIC')
    granted = await connection.fetchval("SELECT has_schema_privilege('public', $1, 'USAGE')", schema)
    if not granted:
        raise RuntimeError(f'schema "{schema}" belongs to {owner}: no right to grant on it')
