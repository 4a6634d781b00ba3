"""Requests: making tasks, and what their owners ask of them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ARRAY, bindparam, column, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from voservice import tracing
from vospace_client.terms import ON_TAPE

from preparer.ledger.progress import cancel_files, close
from preparer.ledger.queries import Queries, add_event
from preparer.ledger.rows import File, NewFile, NewTask, Task
from preparer.ledger.tables import IS_ACTIVE, FileState, TaskState, events, files, now, tasks

INSERT_ROWS = 5000


class KeyReused(Exception):
    """The idempotency key belongs to another request."""


class SameUnderWay(Exception):
    """An identical request is unfinished."""


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
        "trace",
    )
}
_FILES = {
    name: bindparam(f"{name}s", type_=ARRAY(files.c[name].type))
    for name in ("number", "did", "path", "target", "size", "md5", "adler32", "rse")
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
    """Return the parameters of one batch of files, from *start* on."""
    part = new[start : start + INSERT_ROWS]
    return {
        _FILES[name].key: list(range(start, start + len(part)))
        if name == "number"
        else [getattr(file, name) for file in part]
        for name in _FILES
    }


class Requests(Queries):
    """Queries on behalf of clients."""

    async def submit(self, new: NewTask) -> tuple[Task, bool]:
        """Write a request; returns the task and whether it is new: an identical unfinished one is returned as it is."""
        for _ in range(3):
            try:
                return await self._insert(new), True
            except IntegrityError:
                # Two unique indexes stand for what the same request is. It is found now, or has ended by now.
                known = await self.same(new.username, new.content_hash, new.idempotency_key)
                if known is not None:
                    return known, False
        raise RuntimeError("the same request keeps appearing and ending")

    async def same(self, username: str, content_hash: str, key: str | None) -> Task | None:
        """Return the user's task of that idempotency *key*, or an unfinished one of the same content, if there is one.

        Raises `KeyReused` if the key was used for another content.
        """
        async with self._single.connect() as connection:
            if key is not None:
                row = (
                    await connection.execute(
                        select(tasks).where(tasks.c.username == username, tasks.c.idempotency_key == key)
                    )
                ).first()
                if row is not None:
                    if row.content_hash != content_hash:
                        raise KeyReused
                    return Task.of(row)
            found = await connection.execute(
                select(tasks).where(
                    tasks.c.username == username,
                    tasks.c.content_hash == content_hash,
                    IS_ACTIVE,
                    ~tasks.c.cancel,
                )
            )
            row = found.first()
            return None if row is None else Task.of(row)

    async def _insert(self, new: NewTask) -> Task:
        sizes = [file.size for file in new.files]
        known = {
            **vars(new),
            "id": uuid.uuid4(),
            "files": len(new.files),
            "bytes_total": None if None in sizes else sum(size or 0 for size in sizes),
            "trace": tracing.current(),
        }
        task = {parameter.key: known[name] for name, parameter in _TASK.items()}
        first = task | {"event": {"files": len(new.files)}} | _arrays(new.files, 0)
        if len(new.files) <= INSERT_ROWS:
            # One statement, which is a transaction of its own: most requests cost one round trip.
            async with self._single.connect() as connection:
                return Task.of((await connection.execute(_ADD_TASK, first)).one())
        async with self.engine.begin() as connection:
            made = Task.of((await connection.execute(_ADD_TASK, first)).one())
            for start in range(INSERT_ROWS, len(new.files), INSERT_ROWS):
                await connection.execute(_ADD_FILES, {_TASK["id"].key: made.id} | _arrays(new.files, start))
        return made

    async def active_count(self, username: str) -> int:
        """Return the number of the user's unfinished tasks."""
        async with self._single.connect() as connection:
            count = await connection.scalar(_ACTIVE_COUNT, {"username": username})
            return int(count or 0)

    async def task(self, task: uuid.UUID, username: str | None = None) -> Task | None:
        """Return a task, or None; with *username* only if it belongs to that user."""
        query = select(tasks).where(tasks.c.id == task)
        if username is not None:
            query = query.where(tasks.c.username == username)
        return next(iter(await self._tasks(query)), None)

    async def list_tasks(
        self, username: str | None, states: Sequence[str] | None, before: datetime | None, limit: int
    ) -> Sequence[Task]:
        """Return tasks, newest first."""
        query = select(tasks).order_by(tasks.c.created.desc()).limit(limit)
        if username is not None:
            query = query.where(tasks.c.username == username)
        if states:
            query = query.where(tasks.c.state.in_(states))
        if before is not None:
            query = query.where(tasks.c.created < before)
        return await self._tasks(query)

    async def list_files(
        self, task: uuid.UUID, states: Sequence[str] | None = None, after: int = -1, limit: int = 1000
    ) -> Sequence[File]:
        """Return files of a task, ordered by number."""
        query = (
            select(files)
            .where(files.c.task == task, files.c.number > after)
            .order_by(files.c.number)
            .limit(limit)
        )
        if states:
            on_tape = (files.c.state == FileState.PENDING) & (files.c.fault == ON_TAPE)
            wanted = files.c.state.in_([state for state in states if state != FileState.STAGING_FROM_TAPE])
            query = query.where(wanted | on_tape if FileState.STAGING_FROM_TAPE in states else wanted)
        async with self._single.connect() as connection:
            return [File.of(row) for row in await connection.execute(query)]

    async def pending(self, task: uuid.UUID, limit: int) -> Sequence[File]:
        """Return pending files of a task that are to be staged now, ordered by number."""
        query = (
            select(files)
            .where(
                files.c.task == task,
                files.c.state == FileState.PENDING,
                or_(files.c.not_before.is_(None), files.c.not_before <= now),
            )
            .order_by(files.c.number)
            .limit(limit)
        )
        async with self._single.connect() as connection:
            return [File.of(row) for row in await connection.execute(query)]

    async def next_due(self, task: uuid.UUID) -> datetime | None:
        """Return when the first of a task's pending files is to be staged that wait; None if no file does."""
        query = select(func.min(files.c.not_before)).where(
            files.c.task == task, files.c.state == FileState.PENDING
        )
        async with self._single.connect() as connection:
            found: datetime | None = await connection.scalar(query)
            return found

    async def cancel(self, task: uuid.UUID) -> None:
        """Request a task's cancellation; a task that no worker holds is cancelled at once."""
        async with self.engine.begin() as connection:
            await connection.execute(update(tasks).where(tasks.c.id == task, IS_ACTIVE).values(cancel=True))
            await add_event(connection, task, "cancel")
            waiting = (
                await connection.execute(
                    select(tasks.c.files, tasks.c.files_done)
                    .where(tasks.c.id == task, tasks.c.state == TaskState.QUEUED)
                    .with_for_update()
                )
            ).first()
            if waiting is not None:
                await cancel_files(connection, task)
                info = f"Cancelled: {waiting.files_done} of {waiting.files} files staged"
                await close(connection, task, TaskState.CANCELLED, info)

    async def retry(self, task: uuid.UUID, credential: bytes | None, expires: datetime | None) -> int:
        """Queue the failed and cancelled files of a finished task again; returns their number.

        Raises `SameUnderWay` if an identical request is unfinished.
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
                .values(
                    state=FileState.PENDING,
                    attempts=0,
                    fault=None,
                    detail=None,
                    finished=None,
                    tape_since=None,
                    not_before=None,
                )
            )
            if again.rowcount:
                await connection.execute(
                    update(tasks)
                    .where(tasks.c.id == task)
                    .values(
                        state=TaskState.QUEUED,
                        info=None,
                        finished=None,
                        not_before=None,
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
                        trace=tracing.current(),
                        receipt=False,
                    )
                )
                await add_event(connection, task, "retry", files=again.rowcount)
            return again.rowcount

    async def renew_lifetime(self, task: uuid.UUID, lifetime: int) -> None:
        """Let staged copies expire *lifetime* seconds from now."""
        async with self.engine.begin() as connection:
            await connection.execute(
                update(tasks)
                .where(tasks.c.id == task)
                .values(lifetime=lifetime, expires=now + timedelta(seconds=lifetime))
            )
            await add_event(connection, task, "renewed", lifetime=lifetime)

    async def expire_now(self, task: uuid.UUID) -> None:
        """Let staged copies expire now."""
        async with self.engine.begin() as connection:
            await connection.execute(update(tasks).where(tasks.c.id == task).values(expires=now))
