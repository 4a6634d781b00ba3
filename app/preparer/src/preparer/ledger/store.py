"""What is asked of the ledger, each in one transaction."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ARRAY,
    Row,
    and_,
    bindparam,
    column,
    func,
    insert,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from voservice import database

from preparer.ledger.tables import GOOD, IS_ACTIVE, FileState, TaskState, attempts, events, files, now, tasks

Task = Row[Any]
File = Row[Any]

INSERT_ROWS = 5000
# Key of the advisory lock under which tasks are claimed; any number that nothing else in this database uses.
CLAIMING = 1


@dataclass(frozen=True)
class NewFile:
    """One file of a request."""

    did: str
    path: str
    target: str
    size: int | None = None
    md5: str | None = None
    adler32: str | None = None


@dataclass(frozen=True)
class NewTask:
    """A request that passed every check."""

    username: str
    subject: str
    approach: str
    content_hash: str
    files: Sequence[NewFile]
    credential: bytes | None = None
    credential_expires: datetime | None = None
    idempotency_key: str | None = None
    callback: str | None = None
    lifetime: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one file."""

    number: int
    state: FileState
    bytes: int | None = None
    md5: str | None = None
    adler32: str | None = None
    fault: str | None = None
    detail: str | None = None


class KeyReused(Exception):
    """The idempotency key belongs to another request."""


class SameUnderWay(Exception):
    """The same request is under way as another task."""


# Built once, since SQLAlchemy takes longer over naming all columns than PostgreSQL over the rest. Files come as arrays
# instead of rows: one round trip for thousands of them, and for all of most requests.
_TASK = {
    name: bindparam(f"new_{name}", type_=tasks.c[name].type)
    for name in (
        "id",
        "username",
        "subject",
        "approach",
        "content_hash",
        "files",
        "bytes_total",
        "credential",
        "credential_expires",
        "idempotency_key",
        "callback",
        "lifetime",
    )
}
_FILES = {
    name: bindparam(f"{name}s", type_=ARRAY(files.c[name].type))
    for name in ("number", "did", "path", "target", "size", "md5", "adler32")
}
_ADD_FILES = (
    insert(files)
    .from_select(
        ["task", *_FILES],
        select(
            _TASK["id"],
            *func.unnest(*_FILES.values())
            .table_valued(*(column(name, files.c[name].type) for name in _FILES))
            .render_derived(name="new")
            .c,
        ),
    )
    .returning(files.c.number)
)
_ADD_TASK = select(insert(tasks).values(_TASK).returning(tasks).cte("written")).add_cte(
    _ADD_FILES.cte("listed"),
    insert(events)
    .values(task=_TASK["id"], kind="submitted", detail=bindparam("event", type_=events.c.detail.type))
    .returning(events.c.id)
    .cte("submitted"),
)

_ACTIVE_COUNT = select(func.count()).where(tasks.c.username == bindparam("username"), IS_ACTIVE)


def _arrays(new: Sequence[NewFile], start: int) -> dict[str, Any]:
    """Parameters of the files from *start* on, as many as go at once."""
    part = new[start : start + INSERT_ROWS]
    return {
        _FILES[name].key: list(range(start, start + len(part)))
        if name == "number"
        else [getattr(file, name) for file in part]
        for name in _FILES
    }


class Ledger:
    """The record of all tasks and files. PostgreSQL is the truth; messages only wake workers up."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Use the database of *engine*."""
        self.engine = engine
        # For what is one statement, which PostgreSQL makes a transaction of its own.
        self._single = database.reader(engine)

    # -- requests --------------------------------------------------------------------------------------------

    async def submit(self, new: NewTask) -> tuple[Task, bool]:
        """Write a request; returns the task and whether it is new. The same one still under way is not made twice."""
        for _ in range(3):
            try:
                return await self._insert(new), True
            except IntegrityError:
                # Two unique indexes stand for what the same request is. It is found now, or has ended by now.
                known = await self._same(new)
                if known is not None:
                    return known, False
        raise RuntimeError("the same request keeps appearing and ending")

    async def _same(self, new: NewTask) -> Task | None:
        async with self._single.connect() as connection:
            if new.idempotency_key is not None:
                row = (
                    await connection.execute(
                        select(tasks).where(
                            tasks.c.username == new.username, tasks.c.idempotency_key == new.idempotency_key
                        )
                    )
                ).first()
                if row is not None:
                    if row.content_hash != new.content_hash:
                        raise KeyReused
                    return row
            found = await connection.execute(
                select(tasks).where(
                    tasks.c.username == new.username,
                    tasks.c.content_hash == new.content_hash,
                    IS_ACTIVE,
                    ~tasks.c.cancel,
                )
            )
            return found.first()

    async def _insert(self, new: NewTask) -> Task:
        sizes = [file.size for file in new.files]
        known = {
            **vars(new),
            "id": uuid.uuid4(),
            "files": len(new.files),
            "bytes_total": None if None in sizes else sum(size or 0 for size in sizes),
        }
        task = {parameter.key: known[name] for name, parameter in _TASK.items()}
        first = task | {"event": {"files": len(new.files)}} | _arrays(new.files, 0)
        made: Task
        if len(new.files) <= INSERT_ROWS:
            # One statement, which is a transaction of its own: most requests cost one round trip.
            async with self._single.connect() as connection:
                made = (await connection.execute(_ADD_TASK, first)).one()
            return made
        async with self.engine.begin() as connection:
            made = (await connection.execute(_ADD_TASK, first)).one()
            for start in range(INSERT_ROWS, len(new.files), INSERT_ROWS):
                await connection.execute(_ADD_FILES, {_TASK["id"].key: made.id} | _arrays(new.files, start))
        return made

    async def active_count(self, username: str) -> int:
        """Number of the user's unfinished tasks."""
        async with self._single.connect() as connection:
            count = await connection.scalar(_ACTIVE_COUNT, {"username": username})
            return int(count or 0)

    async def task(self, task: uuid.UUID, username: str | None = None) -> Task | None:
        """One task; with *username* only if it is that user's."""
        query = select(tasks).where(tasks.c.id == task)
        if username is not None:
            query = query.where(tasks.c.username == username)
        async with self._single.connect() as connection:
            return (await connection.execute(query)).first()

    async def list_tasks(
        self, username: str | None, states: Sequence[str] | None, before: datetime | None, limit: int
    ) -> Sequence[Task]:
        """Tasks, the newest first."""
        query = select(tasks).order_by(tasks.c.created.desc()).limit(limit)
        if username is not None:
            query = query.where(tasks.c.username == username)
        if states:
            query = query.where(tasks.c.state.in_(states))
        if before is not None:
            query = query.where(tasks.c.created < before)
        async with self._single.connect() as connection:
            return (await connection.execute(query)).all()

    async def list_files(
        self, task: uuid.UUID, states: Sequence[str] | None = None, after: int = -1, limit: int = 1000
    ) -> Sequence[File]:
        """Files of a task by number."""
        query = (
            select(files)
            .where(files.c.task == task, files.c.number > after)
            .order_by(files.c.number)
            .limit(limit)
        )
        if states:
            query = query.where(files.c.state.in_(states))
        async with self._single.connect() as connection:
            return (await connection.execute(query)).all()

    async def faults(self, task: uuid.UUID, limit: int = 3) -> Sequence[Row[Any]]:
        """Commonest faults of a task's failed files, each with an example."""
        query = (
            select(
                files.c.fault,
                func.count().label("count"),
                func.min(files.c.did + ": " + files.c.detail).label("example"),
            )
            .where(files.c.task == task, files.c.state == FileState.FAILED)
            .group_by(files.c.fault)
            .order_by(func.count().desc())
            .limit(limit)
        )
        async with self._single.connect() as connection:
            return (await connection.execute(query)).all()

    async def cancel(self, task: uuid.UUID) -> None:
        """Ask for a task's end; a task that nobody works on ends at once."""
        async with self.engine.begin() as connection:
            await connection.execute(update(tasks).where(tasks.c.id == task, IS_ACTIVE).values(cancel=True))
            await self._event(connection, task, "cancel")
            waiting = (
                await connection.execute(
                    select(tasks.c.files, tasks.c.files_done)
                    .where(tasks.c.id == task, tasks.c.state == TaskState.QUEUED)
                    .with_for_update()
                )
            ).first()
            if waiting is not None:
                await self._cancel_files(connection, task)
                info = f"Cancelled: {waiting.files_done} of {waiting.files} files staged"
                await self._finish(connection, task, TaskState.CANCELLED, info)

    async def retry(self, task: uuid.UUID, credential: bytes | None, expires: datetime | None) -> int:
        """Put the failed and cancelled files of a finished task back; returns how many.

        Raises ``SameUnderWay`` where the same request was made anew meanwhile.
        """
        try:
            return await self._retry(task, credential, expires)
        except IntegrityError as exc:
            raise SameUnderWay from exc

    async def _retry(self, task: uuid.UUID, credential: bytes | None, expires: datetime | None) -> int:
        async with self.engine.begin() as connection:
            ended = await connection.scalar(
                select(tasks.c.id).where(tasks.c.id == task, ~IS_ACTIVE).with_for_update()
            )
            if ended is None:
                return 0
            again = await connection.execute(
                update(files)
                .where(files.c.task == task, files.c.state.in_([FileState.FAILED, FileState.CANCELLED]))
                .values(state=FileState.PENDING, attempts=0, fault=None, detail=None, finished=None)
            )
            if again.rowcount:
                await connection.execute(
                    update(tasks)
                    .where(tasks.c.id == task)
                    .values(
                        state=TaskState.QUEUED,
                        info=None,
                        finished=None,
                        cancel=False,
                        published=False,
                        attempts=0,
                        files_failed=0,
                        # A job that it has left behind stays known: it is taken up.
                        credential=credential,
                        credential_expires=expires,
                        callback_attempts=0,
                        callback_next=None,
                        callback_status=None,
                    )
                )
                await self._event(connection, task, "retry", files=again.rowcount)
            return again.rowcount

    # -- the outbox ------------------------------------------------------------------------------------------

    async def unpublished(self, limit: int = 500) -> Sequence[uuid.UUID]:
        """Tasks whose message the broker has not confirmed."""
        async with self._single.connect() as connection:
            rows = await connection.execute(
                select(tasks.c.id).where(~tasks.c.published).order_by(tasks.c.created).limit(limit)
            )
            return [uuid.UUID(str(row.id)) for row in rows]

    async def published(self, numbers: Sequence[uuid.UUID]) -> None:
        """Note that the broker has confirmed the tasks' messages."""
        async with self.engine.begin() as connection:
            await connection.execute(update(tasks).where(tasks.c.id.in_(numbers)).values(published=True))

    # -- workers ---------------------------------------------------------------------------------------------

    async def claim(
        self, worker: str, lease: float, user_tasks: int, site_tasks: int, max_attempts: int
    ) -> Task | None:
        """Take the next task: the oldest of the users with least under way. A silent worker's tasks wait too."""
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
            await self._event(connection, row.id, "claimed", worker=worker, attempt=row.attempts)
            claimed: Task = row
            if row.attempts > max_attempts:
                await self._finish(
                    connection,
                    row.id,
                    TaskState.LOST,
                    f"Given up after {max_attempts} workers were lost over it",
                )
                return None
            return claimed

    async def renew(self, worker: str, lease: float, held: Sequence[uuid.UUID]) -> dict[uuid.UUID, bool]:
        """Extend the worker's hold on its tasks; returns those still its own and whether their end is asked for."""
        async with self.engine.begin() as connection:
            rows = await connection.execute(
                update(tasks)
                .where(tasks.c.id.in_(held), tasks.c.worker == worker, tasks.c.state == TaskState.RUNNING)
                .values(lease=now + timedelta(seconds=lease))
                .returning(tasks.c.id, tasks.c.cancel)
            )
            return {uuid.UUID(str(row.id)): bool(row.cancel) for row in rows}

    async def yield_task(self, task: uuid.UUID, worker: str) -> None:
        """Give a task back, for another worker to go on with at once."""
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
        """Remember the bulk job underneath a task, if the task is still the worker's."""
        async with self.engine.begin() as connection:
            await connection.execute(
                update(tasks)
                .where(tasks.c.id == task, tasks.c.worker == worker)
                .values(job=job, job_event=event)
            )

    async def record(self, task: uuid.UUID, outcomes: Sequence[Outcome]) -> None:
        """Write what became of some files; each counts once however often it is told."""
        if not outcomes:
            return
        async with self.engine.begin() as connection:
            rows = await connection.execute(
                text(
                    "UPDATE files SET state = n.state, bytes = n.bytes, found_md5 = n.md5, found_adler32 = n.adler32,"
                    " fault = n.fault, detail = n.detail, finished = clock_timestamp()"
                    " FROM unnest(CAST(:numbers AS int[]), CAST(:states AS text[]), CAST(:bytes AS bigint[]),"
                    " CAST(:md5s AS text[]), CAST(:adlers AS text[]), CAST(:faults AS text[]),"
                    " CAST(:details AS text[]))"
                    " AS n (number, state, bytes, md5, adler32, fault, detail)"
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

    async def tried(self, task: uuid.UUID, worker: str, failures: Sequence[Outcome]) -> None:
        """Note failed tries of files that will be tried again."""
        if not failures:
            return
        async with self.engine.begin() as connection:
            await connection.execute(
                insert(attempts),
                [
                    {
                        "task": task,
                        "number": o.number,
                        "worker": worker,
                        "fault": o.fault or "Unknown",
                        "detail": o.detail,
                    }
                    for o in failures
                ],
            )
            await connection.execute(
                update(files)
                .where(files.c.task == task, files.c.number.in_([o.number for o in failures]))
                .values(attempts=files.c.attempts + 1)
            )

    async def finish(self, task: uuid.UUID, worker: str) -> Task | None:
        """Close a task whose files are all final, with the state that they make."""
        async with self.engine.begin() as connection:
            row = (
                await connection.execute(
                    select(tasks).where(tasks.c.id == task, tasks.c.worker == worker).with_for_update()
                )
            ).first()
            if row is None or row.state != TaskState.RUNNING:
                return None
            if row.cancel:
                await self._cancel_files(connection, task)
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
            return await self._finish(connection, task, state, info)

    async def fail(self, task: uuid.UUID, worker: str, fault: str, detail: str) -> None:
        """Fail every file that is still pending, for one reason, if the task is still the worker's."""
        async with self.engine.begin() as connection:
            held = await connection.scalar(
                select(tasks.c.id)
                .where(tasks.c.id == task, tasks.c.worker == worker, tasks.c.state == TaskState.RUNNING)
                .with_for_update()
            )
            if held is None:
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

    async def _finish(
        self, connection: AsyncConnection, task: uuid.UUID, state: TaskState, info: str
    ) -> Task | None:
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
                update(tasks)
                .where(tasks.c.id == task)
                .values(files_failed=tasks.c.files_failed + lost.rowcount)
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
                    callback_next=self._callback_time(),
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
        await self._event(connection, task, "finished", state=str(state))
        finished: Task = row
        return finished

    @staticmethod
    def _callback_time() -> Any:
        return text("CASE WHEN callback IS NULL THEN NULL ELSE clock_timestamp() END")

    @staticmethod
    async def _cancel_files(connection: AsyncConnection, task: uuid.UUID) -> None:
        await connection.execute(
            update(files)
            .where(files.c.task == task, files.c.state == FileState.PENDING)
            .values(state=FileState.CANCELLED, finished=now)
        )

    @staticmethod
    async def _event(connection: AsyncConnection, task: uuid.UUID, kind: str, **detail: Any) -> None:
        await connection.execute(insert(events).values(task=task, kind=kind, detail=detail))

    async def list_events(self, task: uuid.UUID, after: int = 0, limit: int = 1000) -> Sequence[Row[Any]]:
        """Events of a task in order."""
        query = (
            select(events)
            .where(events.c.task == task, events.c.id > after)
            .order_by(events.c.id)
            .limit(limit)
        )
        async with self._single.connect() as connection:
            return (await connection.execute(query)).all()

    async def note_receipt(self, task: uuid.UUID) -> None:
        """Note that a task's receipt is written."""
        async with self.engine.begin() as connection:
            await self._event(connection, task, "receipt")

    async def without_receipt(self, age: timedelta, limit: int = 10) -> Sequence[Task]:
        """Tasks that ended longer than *age* ago, within a day, and have no receipt."""
        written = (
            select(events.c.id)
            .where(events.c.task == tasks.c.id, events.c.kind == "receipt", events.c.at >= tasks.c.finished)
            .exists()
        )
        query = (
            select(tasks)
            .where(
                tasks.c.finished < now - age,
                tasks.c.finished > now - timedelta(days=1),
                ~IS_ACTIVE,
                ~written,
            )
            .limit(limit)
        )
        async with self._single.connect() as connection:
            found: Sequence[Task] = (await connection.execute(query)).all()
            return found

    # -- housekeeping ----------------------------------------------------------------------------------------

    async def due_callbacks(self, limit: int = 50) -> Sequence[Task]:
        """Tasks whose caller is to be told now; each is put off a little, so that one worker tells at a time."""
        async with self.engine.begin() as connection:
            due = (
                select(tasks.c.id)
                .where(tasks.c.callback_next <= now)
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
            found: Sequence[Task] = rows.all()
            return found

    async def called_back(self, task: uuid.UUID, status: str, final: bool) -> None:
        """Note how a callback went; a final one is not tried again."""
        values: dict[str, Any] = {"callback_status": status[:500]}
        if final:
            values["callback_next"] = None
        async with self.engine.begin() as connection:
            await connection.execute(update(tasks).where(tasks.c.id == task).values(**values))

    async def expired(self, limit: int = 10) -> Sequence[Task]:
        """Finished tasks whose staged copies have outlived their time; put off, as callbacks are."""
        async with self.engine.begin() as connection:
            due = (
                select(tasks.c.id)
                .where(tasks.c.expires <= now, ~IS_ACTIVE)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
            rows = await connection.execute(
                update(tasks)
                .where(tasks.c.id.in_(due))
                .values(expires=now + timedelta(seconds=60))
                .returning(tasks)
            )
            found: Sequence[Task] = rows.all()
            return found

    async def release(self, task: uuid.UUID, numbers: Sequence[int], complete: bool) -> None:
        """Note that staged copies are gone; *complete* ends the task's lifetime."""
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
                await self._event(connection, task, "released")

    async def left_behind(self, limit: int = 100) -> Sequence[Task]:
        """Ended tasks whose bulk job nobody saw end: cancelled, failed or lost while Cavern was away."""
        query = (
            select(tasks).where(tasks.c.job.is_not(None), ~IS_ACTIVE).order_by(tasks.c.finished).limit(limit)
        )
        async with self._single.connect() as connection:
            found: Sequence[Task] = (await connection.execute(query)).all()
            return found

    async def forget_job(self, task: uuid.UUID, job: str) -> None:
        """Note that nothing is left of an ended task's bulk job; its credential goes with it, unless others need it."""
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

    async def renew_lifetime(self, task: uuid.UUID, lifetime: int) -> None:
        """Let staged copies live *lifetime* seconds from now."""
        async with self.engine.begin() as connection:
            await connection.execute(
                update(tasks)
                .where(tasks.c.id == task)
                .values(lifetime=lifetime, expires=now + timedelta(seconds=lifetime))
            )
            await self._event(connection, task, "renewed", lifetime=lifetime)

    async def expire_now(self, task: uuid.UUID) -> None:
        """Let the staged copies go at the next opportunity."""
        async with self.engine.begin() as connection:
            await connection.execute(update(tasks).where(tasks.c.id == task).values(expires=now))

    async def history(self, limit: int = 100) -> list[tuple[int, int, float]]:
        """Files, bytes and seconds of the last tasks that transferred something, going by their first file."""
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
        """Number of tasks by state."""
        async with self._single.connect() as connection:
            rows = await connection.execute(select(tasks.c.state, func.count()).group_by(tasks.c.state))
            return dict(rows.tuples().all())

    async def oldest_waiting(self) -> float:
        """Seconds that the oldest unfinished task has waited."""
        async with self._single.connect() as connection:
            age = await connection.scalar(
                select(func.extract("epoch", now - func.min(tasks.c.created))).where(IS_ACTIVE)
            )
            return float(age or 0.0)
