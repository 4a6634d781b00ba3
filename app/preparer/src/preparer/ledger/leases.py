"""Leases: which worker has which task, and for how long."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import case, func, or_, select, update
from voservice.jobs import LeaseTable

from preparer.ledger.queries import Queries, add_event
from preparer.ledger.rows import Task
from preparer.ledger.tables import TaskState, events, tasks

LEASES = LeaseTable(
    tasks,
    owner=tasks.c.username,
    order=tasks.c.created,
    state=tasks.c.state,
    waiting=TaskState.QUEUED,
    running=TaskState.RUNNING,
    lease=tasks.c.lease,
    attempts=tasks.c.attempts,
    started=tasks.c.started,
)


class Leases(Queries):
    """Queries by which workers take tasks, keep them and give them back."""

    async def claim(
        self,
        worker: str,
        lease: float,
        limit: int,
        user_tasks: int,
        site_tasks: int,
        running: Collection[uuid.UUID] = (),
    ) -> Sequence[Task]:
        """Lease up to *limit* tasks, but none that is *running* in this worker; at most *user_tasks* of one user and
        *site_tasks* of all are under way."""
        async with self.engine.begin() as connection:
            rows = await LEASES.claim(
                connection,
                worker,
                lease,
                limit,
                running,
                where=or_(tasks.c.not_before.is_(None), tasks.c.not_before <= func.clock_timestamp()),
                owner_most=user_tasks,
                most=site_tasks,
                published=True,
                not_before=None,
                info=None,
            )
            # A task that waits for tape comes back to its worker thousands of times, which is told once.
            known = await connection.execute(
                select(events.c.task, events.c.detail["attempt"].as_integer()).where(
                    events.c.task.in_([row.id for row in rows]),
                    events.c.kind == "claimed",
                    events.c.detail["worker"].as_string() == worker,
                )
            )
            told = {(task, attempt) for task, attempt in known}
            for row in rows:
                if (row.id, row.attempts) not in told:
                    await add_event(connection, row.id, "claimed", worker=worker, attempt=row.attempts)
        return [Task.of(row) for row in rows]

    async def renew(self, worker: str, lease: float, held: Collection[uuid.UUID]) -> dict[uuid.UUID, bool]:
        """Renew the worker's leases; returns the tasks that it still has and whether they are to be cancelled."""
        async with self.engine.begin() as connection:
            rows = await LEASES.renew(connection, worker, lease, held, tasks.c.cancel)
            return {row.id: row.cancel for row in rows}

    async def release(self, worker: str, task: uuid.UUID) -> None:
        """Give a task back to the queue, for another worker to resume at once."""
        async with self.engine.begin() as connection:
            await LEASES.release(
                connection, worker, task, state=TaskState.QUEUED, lease=None, published=False
            )

    async def postpone(self, worker: str, task: uuid.UUID, until: datetime, info: str) -> None:
        """Give a task back to the queue, from which no worker takes it before *until*, unless it is cancelled."""
        async with self.engine.begin() as connection:
            await LEASES.release(
                connection,
                worker,
                task,
                state=TaskState.QUEUED,
                lease=None,
                not_before=case((tasks.c.cancel, None), else_=until),
                info=info,
            )

    async def job(self, task: uuid.UUID, worker: str, job: str | None, event: int = 0) -> None:
        """Record a task's bulk job, if the worker still holds the task."""
        async with self.engine.begin() as connection:
            await connection.execute(
                update(tasks)
                .where(tasks.c.id == task, tasks.c.worker == worker)
                .values(job=job, job_event=event)
            )
