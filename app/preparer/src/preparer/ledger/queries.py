"""Base of the ledger's queries."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from voservice import database

from preparer.ledger.rows import Task
from preparer.ledger.tables import events


async def add_event(connection: AsyncConnection, task: uuid.UUID, kind: str, **detail: Any) -> None:
    """Write an event of a task, in the transaction of *connection*."""
    await connection.execute(insert(events).values(task=task, kind=kind, detail=detail))


class Queries:
    """Queries of one database."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Use the database of *engine*."""
        self.engine = engine
        # For what is one statement, which PostgreSQL makes a transaction of its own.
        self._single = database.reader(engine)

    async def _tasks(self, query: Select[Any]) -> Sequence[Task]:
        """Return the tasks that a query of whole rows selects."""
        async with self._single.connect() as connection:
            return [Task.of(row) for row in await connection.execute(query)]
