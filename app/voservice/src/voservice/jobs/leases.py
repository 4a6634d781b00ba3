"""Statements by which processes claim the rows of a table, keep them and give them back.

Each is run in a transaction of the caller, who may do more in it. Whoever ends or advances a job asks in the same
statement for the lease (`LeaseTable.held`), so that a process that stalled and lost it can write nothing more.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Result,
    Row,
    Table,
    and_,
    func,
    literal_column,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

NOW = func.clock_timestamp()


class LeaseLost(Exception):
    """The job is no longer this process's to advance: it was ended, deleted, or claimed by another."""


@dataclass(frozen=True, slots=True, eq=False)
class LeaseTable:
    """A table of jobs with a column `id`, and a column `worker` for the process that has the lease."""

    table: Table
    owner: Column[Any]
    order: Column[Any]
    """First in, first out, among the jobs of one owner."""
    state: Column[Any]
    waiting: str
    """State of jobs that nobody has."""
    running: str
    """State of jobs that are leased; also of those whose lease has run out."""
    lease: Column[Any]
    """Time at which the lease runs out."""
    attempts: Column[Any]
    started: Column[Any]

    def _is(self, state: str) -> ColumnElement[bool]:
        # Written out: with a parameter in its place the planner cannot tell that a partial index serves.
        return self.state == literal_column(f"'{state}'")

    @property
    def under_way(self) -> ColumnElement[bool]:
        """Whether a process works on the job."""
        return and_(self._is(self.running), self.lease >= NOW)

    @staticmethod
    def end(seconds: float) -> ColumnElement[datetime]:
        """Return the end of a lease that begins now."""
        return NOW + timedelta(seconds=seconds)

    def held(self, worker: str) -> ColumnElement[bool]:
        """Whether the job is the worker's. A lease that has run out is, until another process claims the job."""
        return and_(self.table.c.worker == worker, self._is(self.running), self.lease.is_not(None))

    async def claim(
        self,
        connection: AsyncConnection,
        worker: str,
        seconds: float,
        limit: int,
        running: Collection[Any] = (),
        *,
        where: ColumnElement[bool] | None = None,
        owner_most: int | None = None,
        most: int | None = None,
        **values: Any,
    ) -> Sequence[Row[Any]]:
        """Lease up to *limit* jobs that nobody has, or whose lease has run out; return their rows.

        Those that are *running* in the worker stay its own while nobody else claims them. Owners take turns: first come
        jobs of who has the fewest under way, of each owner the oldest. Among the jobs *where*, at most *owner_most* of
        one owner and *most* of all are under way. *values* are set too.
        """
        among = true() if where is None else where
        claimable = and_(among, or_(self._is(self.waiting), and_(self._is(self.running), self.lease < NOW)))
        job = self.table.c.id
        if running:
            claimable = and_(claimable, job.not_in(running))
        under_way = (
            select(self.owner.label("owner"), func.count().label("jobs"))
            .where(among, self.under_way)
            .group_by(self.owner)
            .cte("under_way")
        )
        place = func.row_number().over(partition_by=self.owner, order_by=self.order)
        turns = (
            select(job, (func.coalesce(under_way.c.jobs, 0) + place).label("turn"))
            .outerjoin(under_way, under_way.c.owner.is_not_distinct_from(self.owner))
            .where(claimable)
            .subquery()
        )
        left: Any = limit
        if most is not None:
            everybody = select(func.coalesce(func.sum(under_way.c.jobs), 0)).scalar_subquery()
            left = func.least(limit, func.greatest(0, most - everybody))
        chosen = (
            select(job)
            .join(turns, turns.c.id == job)
            .where(claimable, true() if owner_most is None else turns.c.turn <= owner_most)
            .order_by(turns.c.turn, self.order)
            .limit(left)
            .with_for_update(skip_locked=True, of=self.table)
        )
        if owner_most is not None or most is not None:
            # One claim at a time: two that counted side by side would both fill the same last place.
            lock = zlib.crc32(self.table.fullname.encode())
            await connection.execute(select(func.pg_advisory_xact_lock(lock)))
        claimed: Result[Any] = await connection.execute(
            update(self.table)
            .where(job.in_(chosen.scalar_subquery()))
            .values(
                {
                    self.state: self.running,
                    self.table.c.worker: worker,
                    self.lease: self.end(seconds),
                    self.attempts: self.attempts + 1,
                    self.started: func.coalesce(self.started, NOW),
                }
                | self._columns(values)
            )
            .returning(self.table)
        )
        return claimed.all()

    async def renew(
        self,
        connection: AsyncConnection,
        worker: str,
        seconds: float,
        jobs: Collection[Any],
        *columns: Column[Any],
    ) -> Sequence[Row[Any]]:
        """Renew leases; return the ids of the jobs that are still the worker's, and *columns* of each."""
        renewed = await connection.execute(
            update(self.table)
            .where(self.table.c.id.in_(jobs), self.held(worker))
            .values({self.lease: self.end(seconds)})
            .returning(self.table.c.id, *columns)
        )
        return renewed.all()

    async def release(self, connection: AsyncConnection, worker: str, job: Any, **values: Any) -> None:
        """Give a job back unfinished, for another process to go on with at once; it costs no attempt.

        It stays as it is if it is no longer the worker's. *values* are set too.
        """
        await connection.execute(
            update(self.table)
            .where(self.table.c.id == job, self.held(worker))
            .values(
                {self.table.c.worker: None, self.lease: NOW, self.attempts: self.attempts - 1}
                | self._columns(values)
            )
        )

    def _columns(self, values: dict[str, Any]) -> dict[Column[Any], Any]:
        return {self.table.c[name]: value for name, value in values.items()}
