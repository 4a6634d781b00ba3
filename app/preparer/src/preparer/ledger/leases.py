"""Leases: which worker has which task, and for how long."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import and_, func, or_, select, update

from preparer.ledger.progress import close
from preparer.ledger.queries import Queries, add_event
from preparer.ledger.rows import Task
from preparer.ledger.tables import IS_ACTIVE, TaskState, now, tasks

# Key of the advisory lock for claiming; nothing else in this database uses the number.
CLAIMING = 1


class Leases(Queries):
    """Queries by which workers take tasks, keep them and give them back."""

    async def claim(
        self, worker: str, lease: float, user_tasks: int, site_tasks: int, max_attempts: int
    ) -> Task | None:
        """Take the oldest task of the user with the fewest running, or None; those with an expired lease wait too."""
        running = (
            select(tasks.c.username, func.count().label("count"))
            .where(IS_ACTIVE, tasks.c.state == TaskState.RUNNING, tasks.c.lease > now)
            .group_by(tasks.c.username)
            .cte("running")
        )
        load = func.coalesce(running.c.count, 0)
        everyone = func.coalesce(select(func.sum(running.c.count)).scalar_subquery(), 0)
        waiting = or_(
            tasks.c.state == TaskState.QUEUED, and_(tasks.c.state == TaskState.RUNNING, tasks.c.lease < now)
        )
        async with self.engine.begin() as connection:
            # One claim at a time: two that counted side by side would both fill the same last place of a cap.
            await connection.execute(select(func.pg_advisory_xact_lock(CLAIMING)))
            found = await connection.scalar(
                select(tasks.c.id)
                .outerjoin(running, running.c.username == tasks.c.username)
                .where(IS_ACTIVE, waiting, load < user_tasks, everyone < site_tasks)
                .order_by(load, tasks.c.created)
                .limit(1)
                .with_for_update(skip_locked=True, of=tasks)
            )
            if found is None:
                return None
            row = (
                await connection.execute(
                    update(tasks)
                    .where(tasks.c.id == found)
                    .values(
                        state=TaskState.RUNNING,
                        worker=worker,
                        lease=now + timedelta(seconds=lease),
                        attempts=tasks.c.attempts + 1,
                        started=func.coalesce(tasks.c.started, now),
                        published=True,
                    )
                    .returning(tasks)
                )
            ).one()
            await add_event(connection, row.id, "claimed", worker=worker, attempt=row.attempts)
            if row.attempts > max_attempts:
                await close(
                    connection,
                    row.id,
                    TaskState.LOST,
                    f"Given up after {max_attempts} workers were lost over it",
                )
                return None
            return Task.of(row)

    async def renew(self, worker: str, lease: float, held: Sequence[uuid.UUID]) -> dict[uuid.UUID, bool]:
        """Extend the worker's leases; returns the tasks that it still holds and whether they are to be cancelled."""
        async with self.engine.begin() as connection:
            rows = await connection.execute(
                update(tasks)
                .where(tasks.c.id.in_(held), tasks.c.worker == worker, tasks.c.state == TaskState.RUNNING)
                .values(lease=now + timedelta(seconds=lease))
                .returning(tasks.c.id, tasks.c.cancel)
            )
            return {uuid.UUID(str(row.id)): bool(row.cancel) for row in rows}

    async def give_back(self, task: uuid.UUID, worker: str) -> None:
        """Give a task back to the queue, for another worker to resume at once."""
        async with self.engine.begin() as connection:
            await connection.execute(
                update(tasks)
                .where(tasks.c.id == task, tasks.c.worker == worker, tasks.c.state == TaskState.RUNNING)
                .values(
                    state=TaskState.QUEUED,
                    worker=None,
                    lease=None,
                    attempts=tasks.c.attempts - 1,
                    published=False,
                )
            )

    async def job(self, task: uuid.UUID, worker: str, job: str | None, event: int = 0) -> None:
        """Record a task's bulk job, if the worker still holds the task."""
        async with self.engine.begin() as connection:
            await connection.execute(
                update(tasks)
                .where(tasks.c.id == task, tasks.c.worker == worker)
                .values(job=job, job_event=event)
            )
