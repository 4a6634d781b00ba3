"""Statistics over all tasks."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select

from preparer.ledger.queries import Queries
from preparer.ledger.rows import BusyWorker
from preparer.ledger.tables import IS_ACTIVE, FileState, TaskState, files, now, tasks


class Statistics(Queries):
    """Queries over all tasks."""

    async def history(self, limit: int = 100) -> list[tuple[int, int, float]]:
        """Return (files, bytes, seconds) of the latest tasks that transferred something, by their first file."""
        query = (
            select(
                tasks.c.files_done,
                tasks.c.bytes_done,
                func.extract("epoch", tasks.c.finished - tasks.c.started),
            )
            .join(files, (files.c.task == tasks.c.id) & (files.c.number == 0))
            .where(tasks.c.state == TaskState.SUCCEEDED, files.c.state == FileState.STAGED)
            .order_by(tasks.c.finished.desc())
            .limit(limit)
        )
        async with self._single.connect() as connection:
            return [(row[0], row[1], float(row[2])) for row in await connection.execute(query)]

    async def counts(self) -> dict[str, int]:
        """Return the number of tasks by state."""
        async with self._single.connect() as connection:
            rows = await connection.execute(select(tasks.c.state, func.count()).group_by(tasks.c.state))
            return {row[0]: row[1] for row in rows}

    async def oldest_waiting(self) -> float:
        """Return the age of the oldest unfinished task, in seconds."""
        async with self._single.connect() as connection:
            age = await connection.scalar(
                select(func.extract("epoch", now - func.min(tasks.c.created))).where(IS_ACTIVE)
            )
            return float(age or 0.0)

    async def workers(self) -> Sequence[BusyWorker]:
        """Return the workers that hold tasks, by their names."""
        query = (
            select(tasks.c.worker, func.count(), func.min(tasks.c.lease))
            .where(tasks.c.state == TaskState.RUNNING, tasks.c.worker.is_not(None))
            .group_by(tasks.c.worker)
            .order_by(tasks.c.worker)
        )
        async with self._single.connect() as connection:
            return [BusyWorker(*row) for row in await connection.execute(query)]
