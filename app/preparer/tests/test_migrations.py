"""Ledgers of earlier releases are migrated with what is in them."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from preparer.config import PreparerSettings
from preparer.ledger import MIGRATIONS
from preparer.ledger.tables import metadata
from preparer.ui import sessions
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from voservice import database
from voservice.testing import database_url, postgres

__all__ = ["database_url", "postgres"]

BEFORE_RECEIPTS = """
ALTER TABLE tasks DROP COLUMN receipt;
DROP INDEX tasks_created, tasks_state;
UPDATE alembic_version SET version_num = '0008';
INSERT INTO tasks (id, username, subject, approach, content_hash, files, state, finished)
    SELECT gen_random_uuid(), name, '', '', name, 0, state, now() - ago
    FROM (VALUES
        ('active', 'RUNNING', NULL),
        ('old', 'FAILED', interval '2 days'),
        ('owing', 'FAILED', interval '1 hour'),
        ('written', 'FAILED', interval '1 hour'),
        ('again', 'FAILED', interval '1 hour')
    ) earlier (name, state, ago);
INSERT INTO events (task, kind, at)
    SELECT id, 'receipt', finished + interval '1 s' FROM tasks WHERE username = 'written';
INSERT INTO events (task, kind, at)
    SELECT id, 'receipt', finished - interval '1 s' FROM tasks WHERE username = 'again';
"""


def differences(connection: Connection) -> list[object]:
    """What the tables of a database lack, or have more than they should."""
    context = MigrationContext.configure(connection)
    return list(compare_metadata(context, [metadata, sessions.metadata]))


async def test_receipts_of_earlier_tasks_are_owed_or_not(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    settings = PreparerSettings()
    await asyncio.to_thread(database.migrate, settings, MIGRATIONS)
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(BEFORE_RECEIPTS)
        await asyncio.to_thread(database.migrate, settings, MIGRATIONS)
        found = {row["username"]: row["receipt"] for row in await connection.fetch("SELECT * FROM tasks")}
        await connection.execute(
            "INSERT INTO tasks (id, username, subject, approach, content_hash, files)"
            " VALUES (gen_random_uuid(), 'new', '', '', 'new', 0)"
        )
        assert await connection.fetchval("SELECT receipt FROM tasks WHERE username = 'new'") is False
    finally:
        await connection.close()
    assert found == {"active": False, "old": True, "owing": False, "written": True, "again": False}
    engine = create_async_engine(database_url.replace("postgresql:", "postgresql+asyncpg:"))
    async with engine.connect() as open_engine:
        assert await open_engine.run_sync(differences) == []
    await engine.dispose()
