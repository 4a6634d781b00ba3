"""Rows of the job table. SQL only: every method is one transaction and one truth.

A running job is leased (`voservice.jobs`): each statement that ends or advances it asks for the lease in its WHERE
clause.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Row,
    delete,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from voservice import database
from voservice.jobs import LeaseLost, LeaseTable
from vospace_client.terms import FINAL_PHASES, ExecutionPhase

from vospace.models.errors import TooManyRequests
from vospace.uws.model import ErrorSummary, Job, JobReference, Outcome, Parameter, Result, Share
from vospace.uws.tables import LARGE, job

Phase = ExecutionPhase
WAITING = (Phase.PENDING, Phase.QUEUED, Phase.HELD, Phase.SUSPENDED)
LEASES = LeaseTable(
    job,
    owner=job.c.owner,
    order=job.c.queue,
    state=job.c.phase,
    waiting=Phase.QUEUED,
    running=Phase.EXECUTING,
    lease=job.c.lease_until,
    attempts=job.c.attempt,
    started=job.c.start_time,
)
STOPPABLE = (Phase.PENDING, Phase.QUEUED, Phase.EXECUTING, Phase.HELD, Phase.SUSPENDED)


class JobStore:
    """The job table behind an engine."""

    def __init__(self, engine: AsyncEngine, share: Share | None = None) -> None:
        """`share`: what the jobs of one user may take; all there is without."""
        self.engine = engine
        self._share = share
        self._reader = database.reader(engine)

    async def insert(self, new: Job) -> None:
        async with self.engine.begin() as connection:
            await self.insert_with(connection, new)

    async def insert_with(self, connection: AsyncConnection, new: Job) -> None:
        """Insert inside the caller's transaction, so that what belongs to the job appears with it or not at all.

        Raises TooManyRequests where that would exceed the user's share."""
        if self._share is not None and new.owner is not None:
            await self._require_share(connection, new, self._share)
        await connection.execute(insert(job).values(_values(new)))

    @staticmethod
    async def _require_share(connection: AsyncConnection, new: Job, share: Share) -> None:
        if new.phase in WAITING:
            mine = (
                select(literal(1))
                .where(job.c.owner == new.owner, job.c.phase.in_([p.value for p in WAITING]))
                .limit(share.waiting)
                .subquery()
            )
            if (
                await connection.execute(select(func.count()).select_from(mine))
            ).scalar_one() >= share.waiting:
                raise TooManyRequests(f"{share.waiting} jobs of yours wait: start, abort or delete some")
        if new.size >= LARGE:
            kept = select(func.coalesce(func.sum(job.c.size), 0)).where(
                job.c.owner == new.owner, job.c.size >= LARGE
            )
            if (await connection.execute(kept)).scalar_one() + new.size > share.size:
                raise TooManyRequests(
                    f"{share.size} bytes of your requests are kept: delete jobs that have ended"
                )

    async def get(self, job_id: str) -> Job | None:
        async with self._reader.connect() as connection:
            row = (await connection.execute(select(job).where(job.c.id == job_id))).one_or_none()
        return None if row is None else _job(row)

    async def phase(self, job_id: str) -> ExecutionPhase | None:
        async with self._reader.connect() as connection:
            phase = (
                await connection.execute(select(job.c.phase).where(job.c.id == job_id))
            ).scalar_one_or_none()
        return None if phase is None else Phase(phase)

    async def references(
        self,
        kinds: Collection[str],
        owner: str,
        phases: Collection[ExecutionPhase] = (),
        after: datetime | None = None,
        last: int | None = None,
    ) -> list[JobReference]:
        """The owner's jobs, youngest first. Without `phases`, archived ones are left out (UWS 1.1, 2.2.2.1)."""
        query = (
            select(job.c.id, job.c.owner, job.c.run_id, job.c.phase, job.c.creation_time)
            .where(job.c.kind.in_(kinds), job.c.owner == owner)
            .order_by(job.c.creation_time.desc(), job.c.queue.desc())
        )
        if phases:
            query = query.where(job.c.phase.in_([p.value for p in phases]))
        else:
            query = query.where(job.c.phase != Phase.ARCHIVED.value)
        if after is not None:
            query = query.where(job.c.creation_time > after)
        if last is not None:
            query = query.limit(last)
        async with self._reader.connect() as connection:
            rows = (await connection.execute(query)).all()
        return [JobReference(r.id, r.owner, r.run_id, Phase(r.phase), r.creation_time) for r in rows]

    async def change(
        self, job_id: str, when: Collection[ExecutionPhase], values: dict[str, Any], *, requeue: bool = False
    ) -> Job | None:
        """Set columns if the job is in one of the phases; the job as it then is, or None if it was not."""
        if requeue:
            values = values | {
                "queue": func.nextval(func.pg_get_serial_sequence(job.fullname, job.c.queue.name))
            }
        statement = (
            update(job)
            .where(job.c.id == job_id, job.c.phase.in_([p.value for p in when]))
            .values(values)
            .returning(job)
        )
        async with self.engine.begin() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return None if row is None else _job(row)

    async def queue(self, job_id: str) -> Job | None:
        """PENDING or HELD to QUEUED."""
        return await self.change(
            job_id, (Phase.PENDING, Phase.HELD), {"phase": Phase.QUEUED.value}, requeue=True
        )

    async def abort(self, job_id: str, error: ErrorSummary | None = None) -> Job | None:
        """Any unfinished phase to ABORTED. Waits for a run that is just committing, and then changes nothing."""
        values = {"phase": Phase.ABORTED.value, "end_time": func.clock_timestamp(), "lease_until": None}
        return await self.change(job_id, STOPPABLE, values | _error_values(error))

    async def delete(self, job_id: str) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(delete(job).where(job.c.id == job_id))

    # What the executor does with jobs.

    async def claim(
        self,
        worker: str,
        kinds: Collection[str],
        limit: int,
        lease: float,
        most: int | None = None,
        running: Collection[str] = (),
    ) -> list[Job]:
        """Lease up to `limit` jobs: queued ones, and running ones whose process stopped renewing its lease, but none
        that is `running` in this process. Of no owner run more than `most` in all processes."""
        async with self.engine.begin() as connection:
            rows = await LEASES.claim(
                connection, worker, lease, limit, running, where=job.c.kind.in_(kinds), owner_most=most
            )
        return [_job(row) for row in rows]

    async def running(self, kind: str, owner: str | None) -> int:
        """Return the number of jobs of one kind and owner that are being worked on."""
        query = select(func.count()).where(
            job.c.owner.is_not_distinct_from(owner),
            job.c.kind == kind,
            LEASES.under_way,
        )
        async with self._reader.connect() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def hold(self, worker: str, job_id: str, lease: float) -> Job | None:
        """SUSPENDED to EXECUTING under this worker's lease, for work done inside a request."""
        values = {
            "phase": Phase.EXECUTING.value,
            "worker": worker,
            "lease_until": LEASES.end(lease),
            "start_time": func.clock_timestamp(),
        }
        return await self.change(job_id, (Phase.SUSPENDED,), values)

    async def renew(self, worker: str, job_ids: Collection[str], lease: float) -> set[str]:
        """Renew leases; the ids that still are this worker's to run."""
        if not job_ids:
            return set()
        async with self.engine.begin() as connection:
            return {row.id for row in await LEASES.renew(connection, worker, lease, job_ids)}

    async def release(self, worker: str, job_id: str) -> None:
        """Give an unfinished job back, for another process to continue at once."""
        async with self.engine.begin() as connection:
            await LEASES.release(connection, worker, job_id)

    async def checkpoint(self, worker: str, job_id: str, state: dict[str, Any]) -> None:
        """Record progress. Raises LeaseLost."""
        statement = (
            update(job)
            .where(job.c.id == job_id, LEASES.held(worker))
            .values(checkpoint=state, attempt=1)
            .returning(job.c.id)
        )
        async with self.engine.begin() as connection:
            if (await connection.execute(statement)).scalar_one_or_none() is None:
                raise LeaseLost(job_id)

    async def announce(self, worker: str, job_id: str, results: Sequence[Result]) -> None:
        """Publish results of a job that still runs. Raises LeaseLost."""
        statement = (
            update(job)
            .where(job.c.id == job_id, LEASES.held(worker))
            .values(results=[[r.id, r.href] for r in results])
            .returning(job.c.id)
        )
        async with self.engine.begin() as connection:
            if (await connection.execute(statement)).scalar_one_or_none() is None:
                raise LeaseLost(job_id)

    @asynccontextmanager
    async def committing(self, worker: str, job_id: str) -> AsyncIterator[AsyncConnection]:
        """Hold the job's row locked for a moment: an abort that comes now waits, and finds the job as this block
        leaves it. Raises LeaseLost on entry if the job is no longer this worker's to run."""
        async with self.engine.begin() as connection:
            lock = select(job.c.id).where(job.c.id == job_id, LEASES.held(worker)).with_for_update()
            if (await connection.execute(lock)).scalar_one_or_none() is None:
                raise LeaseLost(job_id)
            yield connection

    async def finish(self, worker: str, job_id: str, outcome: Outcome) -> bool:
        """End a run; False if the job is no longer this worker's."""
        async with self.engine.begin() as connection:
            return await self.finish_with(connection, worker, job_id, outcome)

    @staticmethod
    async def finish_with(connection: AsyncConnection, worker: str, job_id: str, outcome: Outcome) -> bool:
        values: dict[str, Any] = {
            "phase": outcome.phase.value,
            "results": [[r.id, r.href] for r in outcome.results],
            "end_time": func.clock_timestamp() if outcome.phase in FINAL_PHASES else None,
            "lease_until": None,
        }
        statement = (
            update(job)
            .where(job.c.id == job_id, LEASES.held(worker))
            .values(values | _error_values(outcome.error))
            .returning(job.c.id)
        )
        return (await connection.execute(statement)).scalar_one_or_none() is not None

    @staticmethod
    async def progress_with(connection: AsyncConnection, job_id: str) -> None:
        await connection.execute(update(job).where(job.c.id == job_id).values(attempt=1))

    # Housekeeping.

    async def end_overdue(self, message: str) -> list[str]:
        """End jobs that exceeded their execution duration and that no process works on: a transfer that was negotiated
        for the client is COMPLETED, since that was all there was to do; a package that nobody fetched is ABORTED."""
        ended: list[str] = []
        async with self.engine.begin() as connection:
            for phase, end, error in (
                (Phase.EXECUTING, Phase.COMPLETED, None),
                (Phase.SUSPENDED, Phase.ABORTED, ErrorSummary(message)),
            ):
                statement = (
                    update(job)
                    .where(
                        job.c.phase == phase.value,
                        job.c.lease_until.is_(None),
                        job.c.execution_duration > 0,
                        job.c.start_time + func.make_interval(0, 0, 0, 0, 0, 0, job.c.execution_duration)
                        < func.clock_timestamp(),
                    )
                    .values({"phase": end.value, "end_time": func.clock_timestamp()} | _error_values(error))
                    .returning(job.c.id)
                )
                ended += (await connection.execute(statement)).scalars()
        return ended

    async def destroy_expired(self, limit: int = 200) -> list[str]:
        """Delete jobs past their destruction time, with all that belongs to them; running ones stop."""
        expired = (
            select(job.c.id)
            .where(job.c.destruction_time < func.clock_timestamp())
            .order_by(job.c.destruction_time)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        async with self.engine.begin() as connection:
            statement = delete(job).where(job.c.id.in_(expired.scalar_subquery())).returning(job.c.id)
            return list((await connection.execute(statement)).scalars())

    async def drop_anonymous(self, keep: int, limit: int = 1000) -> int:
        """Delete what exceeds the youngest jobs that nobody owns; how many there were."""
        excess = (
            select(job.c.id)
            .where(job.c.owner.is_(None))
            .order_by(job.c.creation_time.desc())
            .offset(keep)
            .limit(limit)
        )
        async with self.engine.begin() as connection:
            return (
                await connection.execute(delete(job).where(job.c.id.in_(excess.scalar_subquery())))
            ).rowcount

    async def under_way(self) -> list[tuple[str, str, int, float]]:
        """Return kind, phase, number and age of the oldest, in seconds, of jobs that wait to be run and that run."""
        age = func.extract("epoch", func.clock_timestamp() - func.min(job.c.creation_time))
        query = (
            select(job.c.kind, job.c.phase, func.count(), age)
            .where((job.c.phase == Phase.QUEUED.value) | LEASES.under_way)
            .group_by(job.c.kind, job.c.phase)
        )
        async with self._reader.connect() as connection:
            rows = (await connection.execute(query)).all()
        return [(row[0], row[1], row[2], float(row[3])) for row in rows]

    async def ready(self) -> None:
        """Raise if the table cannot be read (VOSI availability)."""
        async with self._reader.connect() as connection:
            await connection.execute(select(job.c.id).limit(1))


def _error_values(error: ErrorSummary | None) -> dict[str, Any]:
    return {} if error is None else {"error_message": error.message, "error_transient": error.transient}


def _values(new: Job) -> dict[str, Any]:
    return {
        "id": new.id,
        "kind": new.kind,
        "owner": new.owner,
        "caller": new.caller,
        "run_id": new.run_id,
        "phase": new.phase.value,
        "creation_time": new.creation_time,
        "start_time": new.start_time,
        "end_time": new.end_time,
        "quote": new.quote,
        "execution_duration": new.execution_duration,
        "destruction_time": new.destruction_time,
        "parameters": [[p.name, p.value] for p in new.parameters],
        "results": [[r.id, r.href] for r in new.results],
        "job_info": new.job_info,
        "job_info_type": new.job_info_type,
        "checkpoint": new.checkpoint,
        "size": new.size,
        "trace": new.trace,
    } | _error_values(new.error)


def _job(row: Row[Any]) -> Job:
    base = Job(
        id=row.id,
        kind=row.kind,
        owner=row.owner,
        caller=row.caller,
        run_id=row.run_id,
        phase=Phase(row.phase),
        creation_time=row.creation_time,
        start_time=row.start_time,
        end_time=row.end_time,
        quote=row.quote,
        execution_duration=row.execution_duration,
        destruction_time=row.destruction_time,
        parameters=tuple(Parameter(name, value) for name, value in row.parameters),
        results=tuple(Result(result_id, href) for result_id, href in row.results),
        job_info=row.job_info,
        job_info_type=row.job_info_type,
        checkpoint=row.checkpoint,
        attempt=row.attempt,
        size=row.size,
        trace=row.trace,
    )
    if row.error_message is None:
        return base
    return replace(base, error=ErrorSummary(row.error_message, row.error_transient))
