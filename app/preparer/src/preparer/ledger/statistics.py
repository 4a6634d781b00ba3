"""Statistics over all tasks."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select

from preparer.ledger.queries import Queries
from preparer.ledger.rows import BusyWorker, Hour
from preparer.ledger.tables import IS_ACTIVE, FileState, TaskState, files, now, tasks, transaction_time


class Statistics(Queries):
    """Queries over all tasks."""

    async def history(self, limit: int = 100) -> list[tuple[int, int, float]]:
        """Return (files, bytes, seconds) of the latest tasks that transferred something, by their first file."""
        # Among twice as many: a ledger of tasks that transferred nothing is not read to its end.
        latest = (
            select(tasks.c.id, tasks.c.files_done, tasks.c.bytes_done, tasks.c.started, tasks.c.finished)
            .where(tasks.c.finished.is_not(None), tasks.c.state == TaskState.SUCCEEDED)
            .order_by(tasks.c.finished.desc())
            .limit(2 * limit)
            .subquery()
        )
        query = (
            select(
                latest.c.files_done,
                latest.c.bytes_done,
                func.extract("epoch", latest.c.finished - latest.c.started),
            )
            .join(files, (files.c.task == latest.c.id) & (files.c.number == 0))
            .where(files.c.state == FileState.STAGED)
            .order_by(latest.c.finished.desc())
            .limit(limit)
        )
        async with self._single.connect() as connection:
            return [(row[0], row[1], float(row[2])) for row in await connection.execute(query)]

    async def ready(self) -> None:
        """Raise if the ledger does not answer, or its tables are not there."""
        async with self._single.connect() as connection:
            await connection.execute(select(tasks.c.id).limit(1))

    async def counts(self) -> dict[str, int]:
        """Return the number of tasks by state."""
        async with self._single.connect() as connection:
            rows = await connection.execute(select(tasks.c.state, func.count()).group_by(tasks.c.state))
            return {row[0]: row[1] for row in rows}

    async def oldest(self) -> tuple[float, float]:
        """Return the age of the oldest unfinished task, and how long one has waited for a worker, in seconds.

        What waits for files on tape waits for a worker only afterwards.
        """
        since = func.coalesce(tasks.c.not_before, tasks.c.created)
        begins = func.min(tasks.c.created), func.min(since).filter(tasks.c.state == TaskState.QUEUED)
        ages = (func.extract("epoch", now - begin) for begin in begins)
        async with self._single.connect() as connection:
            found = (await connection.execute(select(*ages).where(IS_ACTIVE))).one()
            return float(found[0] or 0.0), max(0.0, float(found[1] or 0.0))

    async def hours(self, count: int = 24) -> list[Hour]:
        """Return the latest hours of UTC, the oldest first, without those in which no task ended."""
        hour = func.date_trunc("hour", tasks.c.finished, "UTC")
        since = func.date_trunc("hour", transaction_time, "UTC") - func.make_interval(0, 0, 0, 0, count - 1)
        sums = (tasks.c.files_done, tasks.c.files_failed, tasks.c.bytes_done)
        query = (
            select(hour, func.count(), *(func.sum(column) for column in sums))
            .where(tasks.c.finished >= since)
            .group_by(hour)
            .order_by(hour)
        )
        async with self._single.connect() as connection:
            return [Hour(row[0], *map(int, row[1:])) for row in await connection.execute(query)]

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
