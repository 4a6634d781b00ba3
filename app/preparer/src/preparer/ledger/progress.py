"""Progress: what became of each file, and of the task as a whole."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Float, bindparam, case, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from preparer.ledger.leases import LEASES
from preparer.ledger.queries import Queries, add_event
from preparer.ledger.rows import Outcome, Task
from preparer.ledger.tables import GOOD, FileState, TaskState, files, now, tasks


async def close(connection: AsyncConnection, task: uuid.UUID, state: TaskState, info: str) -> Task:
    """End a task, in the transaction of *connection*; a failed one summarises its most frequent faults."""
    if state == TaskState.FAILED:
        causes = await connection.execute(
            select(func.min(files.c.detail), func.count().label("count"))
            .where(files.c.task == task, files.c.state == FileState.FAILED)
            .group_by(files.c.fault)
            .order_by(func.count().desc())
            .limit(3)
        )
        info = f"{info}; " + "; ".join(f"{count} failed: {detail}" for detail, count in causes)
    if state == TaskState.LOST:
        lost = await connection.execute(
            update(files)
            .where(files.c.task == task, files.c.state == FileState.PENDING)
            .values(state=FileState.FAILED, fault="Lost", detail=info, finished=now)
        )
        await connection.execute(
            update(tasks).where(tasks.c.id == task).values(files_failed=tasks.c.files_failed + lost.rowcount)
        )
    row = (
        await connection.execute(
            update(tasks)
            .where(tasks.c.id == task)
            .values(
                state=state,
                info=info[:2000],
                finished=now,
                worker=None,
                lease=None,
                callback_next=case((tasks.c.callback.is_not(None), now)),
                expires=func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, tasks.c.lifetime),
                # Where every file is there, no job has anything left to do.
                job=None if state == TaskState.SUCCEEDED else tasks.c.job,
                # A credential is kept only as long as something is to be done with it.
                credential=text(
                    "CASE WHEN lifetime IS NULL AND (job IS NULL OR CAST(:final AS text) = 'SUCCEEDED')"
                    " THEN NULL ELSE credential END"
                ).bindparams(final=str(state)),
            )
            .returning(tasks)
        )
    ).one()
    await add_event(connection, task, "finished", state=str(state))
    return Task.of(row)


async def cancel_files(connection: AsyncConnection, task: uuid.UUID) -> None:
    """Cancel the files of a task that are not final, in the transaction of *connection*."""
    await connection.execute(
        update(files)
        .where(files.c.task == task, files.c.state == FileState.PENDING)
        .values(state=FileState.CANCELLED, finished=now)
    )


async def _hold(connection: AsyncConnection, task: uuid.UUID, worker: str) -> bool:
    """Lock a task's row; False if it is no longer the worker's."""
    held = select(tasks.c.id).where(tasks.c.id == task, LEASES.held(worker)).with_for_update()
    return await connection.scalar(held) is not None


class Progress(Queries):
    """Queries by which a worker reports the progress of its tasks."""

    async def record(self, task: uuid.UUID, outcomes: Sequence[Outcome]) -> None:
        """Record outcomes of files; each file counts once, however often it is reported."""
        if not outcomes:
            return
        async with self.engine.begin() as connection:
            rows = await connection.execute(
                text(
                    "UPDATE files SET state = n.state, bytes = n.bytes, found_md5 = n.md5, found_adler32 = n.adler32,"
                    " fault = n.fault, detail = n.detail, rse = coalesce(n.rse, files.rse),"
                    " finished = clock_timestamp()"
                    " FROM unnest(CAST(:numbers AS int[]), CAST(:states AS text[]), CAST(:bytes AS bigint[]),"
                    " CAST(:md5s AS text[]), CAST(:adlers AS text[]), CAST(:faults AS text[]),"
                    " CAST(:details AS text[]), CAST(:rses AS text[]))"
                    " AS n (number, state, bytes, md5, adler32, fault, detail, rse)"
                    " WHERE files.task = :task AND files.number = n.number AND files.state = 'PENDING'"
                    " RETURNING files.state, files.bytes"
                ),
                {
                    "task": task,
                    "numbers": [o.number for o in outcomes],
                    "states": [str(o.state) for o in outcomes],
                    "bytes": [o.bytes for o in outcomes],
                    "md5s": [o.md5 for o in outcomes],
                    "adlers": [o.adler32 for o in outcomes],
                    "faults": [o.fault for o in outcomes],
                    "details": [o.detail for o in outcomes],
                    "rses": [o.rse for o in outcomes],
                },
            )
            done, failed, size = 0, 0, 0
            for state, count in rows:
                if state in GOOD:
                    done += 1
                    size += count or 0
                elif state == FileState.FAILED:
                    failed += 1
            values: dict[str, Any] = {
                "files_done": tasks.c.files_done + done,
                "files_failed": tasks.c.files_failed + failed,
                "bytes_done": tasks.c.bytes_done + size,
            }
            await connection.execute(update(tasks).where(tasks.c.id == task).values(**values))

    async def tried(self, task: uuid.UUID, failures: Sequence[Outcome]) -> None:
        """Count failed attempts at files that will be retried."""
        if not failures:
            return
        async with self.engine.begin() as connection:
            await connection.execute(
                update(files)
                .where(files.c.task == task, files.c.number.in_([o.number for o in failures]))
                .values(attempts=files.c.attempts + 1)
            )

    async def waiting(self, task: uuid.UUID, outcomes: Sequence[tuple[Outcome, float]]) -> None:
        """Note what pending files wait for, each for so many seconds from now; that counts as no attempt."""
        if not outcomes:
            return
        seconds = bindparam("seconds", type_=Float)
        async with self.engine.begin() as connection:
            await connection.execute(
                update(files)
                .where(
                    files.c.task == task,
                    files.c.number == bindparam("file"),
                    files.c.state == FileState.PENDING,
                )
                .values(
                    fault=bindparam("why"),
                    detail=bindparam("words"),
                    tape_since=func.coalesce(files.c.tape_since, now),
                    not_before=now + func.make_interval(0, 0, 0, 0, 0, 0, seconds),
                ),
                [
                    {"file": o.number, "why": o.fault, "words": o.detail, "seconds": wait}
                    for o, wait in outcomes
                ],
            )

    async def finish(self, task: uuid.UUID, worker: str) -> Task | None:
        """End a task whose files are all final, in the state that follows; None if another worker holds it."""
        async with self.engine.begin() as connection:
            row = (
                await connection.execute(
                    select(tasks).where(tasks.c.id == task, LEASES.held(worker)).with_for_update()
                )
            ).first()
            if row is None:
                return None
            if row.cancel:
                await cancel_files(connection, task)
            rows = await connection.execute(
                select(files.c.state, func.count()).where(files.c.task == task).group_by(files.c.state)
            )
            counts: dict[str, int] = {row[0]: row[1] for row in rows}
            if counts.get(FileState.PENDING):
                return None
            good = sum(counts.get(state, 0) for state in GOOD)
            if good == row.files:
                state, info = TaskState.SUCCEEDED, "Data provisioning successful"
            elif counts.get(FileState.CANCELLED):
                state, info = TaskState.CANCELLED, f"Cancelled: {good} of {row.files} files staged"
            else:
                state, info = TaskState.FAILED, f"{good} of {row.files} files staged"
            return await close(connection, task, state, info)

    async def lose(self, task: uuid.UUID, worker: str, info: str) -> Task | None:
        """Give a task up that too many workers were lost over; None if another worker holds it."""
        async with self.engine.begin() as connection:
            if not await _hold(connection, task, worker):
                return None
            return await close(connection, task, TaskState.LOST, info)

    async def fail(self, task: uuid.UUID, worker: str, fault: str, detail: str) -> None:
        """Fail every pending file for one reason, if the worker still holds the task."""
        async with self.engine.begin() as connection:
            if not await _hold(connection, task, worker):
                return
            failed = await connection.execute(
                update(files)
                .where(files.c.task == task, files.c.state == FileState.PENDING)
                .values(state=FileState.FAILED, fault=fault, detail=detail, finished=now)
            )
            await connection.execute(
                update(tasks)
                .where(tasks.c.id == task)
                .values(files_failed=tasks.c.files_failed + failed.rowcount)
            )
