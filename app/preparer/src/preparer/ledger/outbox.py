"""The outbox: tasks whose message the broker has not confirmed."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from sqlalchemy import select, update

from preparer.ledger.queries import Queries
from preparer.ledger.tables import tasks


class Outbox(Queries):
    """Queries for publishing messages."""

    async def unpublished(self, limit: int = 500) -> Sequence[tuple[uuid.UUID, str | None]]:
        """Return the oldest tasks whose message is not confirmed, each with its trace."""
        async with self._single.connect() as connection:
            rows = await connection.execute(
                select(tasks.c.id, tasks.c.trace)
                .where(~tasks.c.published)
                .order_by(tasks.c.created)
                .limit(limit)
            )
            return [(uuid.UUID(str(row.id)), row.trace) for row in rows]

    async def published(self, numbers: Sequence[uuid.UUID]) -> None:
        """Record that the broker has confirmed the tasks' messages."""
        async with self.engine.begin() as connection:
            await connection.execute(update(tasks).where(tasks.c.id.in_(numbers)).values(published=True))
