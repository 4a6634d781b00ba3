"""Aftercare: what remains to be done for ended tasks: receipts, callbacks, lifetimes and orphaned bulk jobs."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from preparer.ledger.queries import Queries, add_event
from preparer.ledger.rows import Task
from preparer.ledger.tables import IS_ACTIVE, FileState, files, now, tasks, transaction_time

STEP_TASKS = 500
STEP_FILES = 20_000
"""Most that is removed at once, but for the files of the last task: it is all locked meanwhile."""
SURPLUS_LOCK = 0x5041_7375_7270
"""PostgreSQL's advisory lock of who removes what the ledger has too much."""


class Aftercare(Queries):
    """Queries about ended tasks."""

    async def note_receipt(self, task: uuid.UUID) -> None:
        """Record that a task's receipt is written."""
        async with self.engine.begin() as connection:
            await connection.execute(update(tasks).where(tasks.c.id == task, ~IS_ACTIVE).values(receipt=True))
            await add_event(connection, task, "receipt")

    async def without_receipt(self, age: timedelta, limit: int = 10) -> Sequence[Task]:
        """Return tasks that ended longer than *age* ago, within a day, and have no receipt."""
        query = (
            select(tasks)
            .where(
                tasks.c.finished < transaction_time - age,
                tasks.c.finished > transaction_time - timedelta(days=1),
                ~tasks.c.receipt,
            )
            .limit(limit)
        )
        return await self._tasks(query)

    async def due_callbacks(self, limit: int = 50) -> Sequence[Task]:
        """Return tasks whose callback is due, and postpone them, so that no other worker takes them meanwhile."""
        async with self.engine.begin() as connection:
            due = (
                select(tasks.c.id)
                .where(tasks.c.callback_next <= transaction_time)
                .order_by(tasks.c.callback_next)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
            rows = await connection.execute(
                update(tasks)
                .where(tasks.c.id.in_(due))
                .values(
                    callback_attempts=tasks.c.callback_attempts + 1,
                    callback_next=now
                    + func.make_interval(
                        0, 0, 0, 0, 0, 0, func.least(3600, func.power(2, tasks.c.callback_attempts + 2))
                    ),
                )
                .returning(tasks)
            )
            return [Task.of(row) for row in rows]

    async def called_back(self, task: uuid.UUID, status: str, final: bool) -> None:
        """Record the result of a callback; after a final one there is no further try."""
        values: dict[str, Any] = {"callback_status": status[:500]}
        if final:
            values["callback_next"] = None
        async with self.engine.begin() as connection:
            await connection.execute(update(tasks).where(tasks.c.id == task).values(**values))

    async def expired(self, limit: int = 10) -> Sequence[Task]:
        """Return finished tasks whose lifetime is over, and postpone them by a minute, as `due_callbacks` does."""
        async with self.engine.begin() as connection:
            due = (
                select(tasks.c.id)
                .where(tasks.c.expires <= transaction_time, ~IS_ACTIVE)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
            rows = await connection.execute(
                update(tasks)
                .where(tasks.c.id.in_(due))
                .values(expires=now + timedelta(seconds=60))
                .returning(tasks)
            )
            return [Task.of(row) for row in rows]

    async def removed(self, task: uuid.UUID, numbers: Sequence[int], complete: bool) -> None:
        """Record that staged copies are removed; *complete* ends the task's lifetime."""
        async with self.engine.begin() as connection:
            if numbers:
                await connection.execute(
                    update(files)
                    .where(files.c.task == task, files.c.number.in_(numbers))
                    .values(state=FileState.RELEASED)
                )
            if complete:
                await connection.execute(
                    update(tasks).where(tasks.c.id == task).values(expires=None, credential=None)
                )
                await add_event(connection, task, "released")

    async def orphaned(self, limit: int = 100) -> Sequence[Task]:
        """Return ended tasks whose bulk job may go on: cancelled, failed or lost while Cavern was unavailable."""
        query = (
            select(tasks).where(tasks.c.job.is_not(None), ~IS_ACTIVE).order_by(tasks.c.finished).limit(limit)
        )
        return await self._tasks(query)

    async def forget_job(self, task: uuid.UUID, job: str) -> None:
        """Record that an ended task's bulk job has ended; without a lifetime its credential is deleted too."""
        async with self.engine.begin() as connection:
            await connection.execute(
                update(tasks)
                .where(tasks.c.id == task, tasks.c.job == job, ~IS_ACTIVE)
                .values(
                    job=None,
                    job_event=0,
                    credential=text("CASE WHEN expires IS NULL THEN NULL ELSE credential END"),
                )
            )

    async def remove_ended(self, age: timedelta) -> int | None:
        """Remove some of the tasks that ended longer than *age* ago, the oldest first, with their files and events.

        Those for which something remains to be done stay: copies that will expire, a callback, a bulk job. Returns the
        number of files removed, or None if there is no such task.
        """
        async with self.engine.begin() as connection:
            return await _remove(connection, age, STEP_FILES)

    async def remove_surplus(self, most: int, age: timedelta) -> int | None:
        """Remove some tasks, as `remove_ended` does, if all tasks together have more than *most* files.

        One worker at a time: several that count the same surplus would each remove it.
        """
        async with self.engine.begin() as connection:
            if not await connection.scalar(select(func.pg_try_advisory_xact_lock(SURPLUS_LOCK))):
                return None
            surplus = (
                int(await connection.scalar(select(func.coalesce(func.sum(tasks.c.files), 0))) or 0) - most
            )
            return await _remove(connection, age, min(surplus, STEP_FILES)) if surplus > 0 else None


async def _remove(connection: AsyncConnection, age: timedelta, most: int) -> int | None:
    """Remove the oldest tasks that ended longer than *age* ago and are done with, none after *most* files."""
    ended = (
        select(tasks.c.id, tasks.c.files)
        .where(
            tasks.c.finished < transaction_time - age,
            ~IS_ACTIVE,
            tasks.c.expires.is_(None),
            tasks.c.callback_next.is_(None),
            tasks.c.job.is_(None),
        )
        .order_by(tasks.c.finished)
        .limit(STEP_TASKS)
        .with_for_update(skip_locked=True)
    )
    chosen, count = list[uuid.UUID](), 0
    for task, size in await connection.execute(ended):
        if count >= most:
            break
        chosen.append(task)
        count += size
    if not chosen:
        return None
    await connection.execute(delete(tasks).where(tasks.c.id.in_(chosen)))
    return count
