"""Rows of bulk pulls in the database: copied in by thousands, ended by batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from voservice import database
from voservice.content import Content
from voservice.texts import legible

from vospace.bulk.model import Finished, Line, Row, RowState, moment
from vospace.bulk.request import RowValues
from vospace.bulk.tables import ROWS_CHANNEL, bulk_row
from vospace.tables import SCHEMA
from vospace.uws.model import Job, Parameter, format_time
from vospace.uws.store import JobStore
from vospace.uws.tables import job as job_table

SUBMISSIONS = 4
"""Requests that are taken apart at a time in a process: each holds a database connection."""
_COLUMNS = ("job_id", "row", "source", "target", "size", "md5", "adler32")

_STAMP = text(
    f"""
    UPDATE {SCHEMA}.bulk_row AS r SET stamp = ARRAY[n.a, n.b, n.c]
      FROM unnest(CAST(:rows AS int[]), CAST(:a AS bigint[]), CAST(:b AS bigint[]), CAST(:c AS bigint[]))
           AS n(row, a, b, c)
     WHERE r.job_id = :job AND r.row = n.row
    """  # noqa: S608 - SCHEMA is a constant of ours, values are bound
)
_FINISH = text(
    f"""
    UPDATE {SCHEMA}.bulk_row AS r
       SET state = n.state, event = n.event, bytes = n.bytes, fault = n.fault, detail = n.detail,
           md5 = coalesce(n.md5, r.md5), adler32 = coalesce(n.adler32, r.adler32), transient = n.transient,
           away = n.away, source = coalesce(n.source, r.source), started = n.started, ended = n.ended
      FROM unnest(CAST(:rows AS int[]), CAST(:events AS int[]), CAST(:states AS text[]), CAST(:bytes AS bigint[]),
                  CAST(:md5 AS text[]), CAST(:adler32 AS text[]), CAST(:faults AS text[]),
                  CAST(:details AS text[]), CAST(:transient AS boolean[]), CAST(:away AS text[]),
                  CAST(:started AS timestamptz[]), CAST(:ended AS timestamptz[]), CAST(:sources AS text[]))
           AS n(row, event, state, bytes, md5, adler32, fault, detail, transient, away, started, ended, source)
     WHERE r.job_id = :job AND r.row = n.row AND r.event IS NULL
    """  # noqa: S608 - SCHEMA is a constant of ours, values are bound
)


class RowStore:
    """The rows of bulk pulls behind an engine."""

    def __init__(self, engine: AsyncEngine, jobs: JobStore) -> None:
        self._engine = engine
        self._jobs = jobs
        self._reader = database.reader(engine)
        self._submissions = asyncio.Semaphore(SUBMISSIONS)

    @asynccontextmanager
    async def creating(self, job: Job) -> AsyncIterator[RowWriter]:
        """A job and its rows, all or nothing: committed at the end of the block."""
        async with self._submissions, self._engine.begin() as connection:
            await self._jobs.insert_with(connection, job)
            raw = await connection.get_raw_connection()
            writer = RowWriter(job.id, raw.driver_connection)
            yield writer
            parameters = [[p.name, p.value] for p in writer.parameters]
            await connection.execute(
                update(job_table).where(job_table.c.id == job.id).values(parameters=parameters)
            )

    async def open_rows(self, job_id: str, after: int, limit: int) -> list[Row]:
        """Rows that are not done, in the order of the request."""
        query = (
            select(bulk_row)
            .where(bulk_row.c.job_id == job_id, bulk_row.c.event.is_(None), bulk_row.c.row > after)
            .order_by(bulk_row.c.row)
            .limit(limit)
        )
        async with self._reader.connect() as connection:
            rows = (await connection.execute(query)).all()
        return [
            Row(
                r.row,
                r.source.split(),
                r.target,
                Content(r.size, r.md5, r.adler32),
                r.stamp and list(r.stamp),
            )
            for r in rows
        ]

    async def last_event(self, job_id: str) -> int:
        query = select(func.coalesce(func.max(bulk_row.c.event), 0)).where(bulk_row.c.job_id == job_id)
        async with self._reader.connect() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def counts(self, job_id: str) -> dict[str, int]:
        """Rows by state."""
        query = (
            select(bulk_row.c.state, func.count())
            .where(bulk_row.c.job_id == job_id)
            .group_by(bulk_row.c.state)
        )
        async with self._reader.connect() as connection:
            return {state: int(count) for state, count in (await connection.execute(query)).all()}

    async def first_failure(self, job_id: str) -> tuple[str, bool]:
        """Return the text of the first failed row, and whether all failures are transient."""
        failed = (bulk_row.c.job_id == job_id, bulk_row.c.state == RowState.ERROR.value)
        first = select(bulk_row.c.fault, bulk_row.c.detail).where(*failed).order_by(bulk_row.c.event).limit(1)
        async with self._reader.connect() as connection:
            fault, detail = (await connection.execute(first)).one()
            transient = (
                await connection.execute(select(func.bool_and(bulk_row.c.transient)).where(*failed))
            ).scalar_one()
        return f"{fault}: {detail}", bool(transient)

    async def stamp(self, job_id: str, stamps: dict[int, list[int]]) -> None:
        """Note which files are about to appear, so that a later run knows them for its own."""
        if not stamps:
            return
        a, b, c = zip(*stamps.values(), strict=True)
        values = {"job": job_id, "rows": list(stamps), "a": list(a), "b": list(b), "c": list(c)}
        async with self._engine.begin() as connection:
            await connection.execute(_STAMP, values)

    @staticmethod
    async def finish(connection: AsyncConnection, job_id: str, event: int, done: Sequence[Finished]) -> None:
        """End rows; their events count from `event` on. Readers hear of it when the transaction is committed."""
        values: dict[str, Any] = {
            "job": job_id,
            "rows": [f.index for f in done],
            "events": list(range(event, event + len(done))),
            "states": [f.state.value for f in done],
            "bytes": [f.content.size for f in done],
            "md5": [f.content.md5 for f in done],
            "adler32": [f.content.adler32 for f in done],
            "faults": [f.fault for f in done],
            "details": [None if f.detail is None else legible(f.detail)[:2000] for f in done],
            "transient": [f.transient for f in done],
            "away": [f.away for f in done],
            "started": [moment(f.started) for f in done],
            "ended": [moment(f.ended) for f in done],
            "sources": [f.source for f in done],
        }
        await connection.execute(_FINISH, values)
        await connection.execute(
            text("SELECT pg_notify(:channel, :job)"), {"channel": ROWS_CHANNEL, "job": job_id}
        )

    async def results(self, job_id: str, after: int, limit: int) -> list[Line]:
        """Finished rows behind an event, in order of finishing."""
        query = (
            select(bulk_row)
            .where(bulk_row.c.job_id == job_id, bulk_row.c.event > after)
            .order_by(bulk_row.c.event)
            .limit(limit)
        )
        async with self._reader.connect() as connection:
            rows = (await connection.execute(query)).all()
        return [_line(row) for row in rows]


class RowWriter:
    """Copies the rows of a new job."""

    def __init__(self, job_id: str, connection: Any) -> None:
        self._job_id = job_id
        self._connection = connection
        self.parameters: tuple[Parameter, ...] = ()
        """Parameters of the job, known when the request has been read."""

    async def write(self, rows: Sequence[RowValues]) -> None:
        records = [(self._job_id, *row) for row in rows]
        await self._connection.copy_records_to_table(
            bulk_row.name, schema_name=SCHEMA, columns=_COLUMNS, records=records
        )


def _line(row: Any) -> Line:
    arrived = row.state in (RowState.COMPLETED, RowState.SKIPPED)
    return {
        "event": row.event,
        "row": row.row,
        "target": row.target,
        # Until one has delivered, it may be any of several.
        "source": row.source if arrived and " " not in row.source else None,
        "state": row.state,
        "bytes": row.bytes,
        "md5": row.md5 if arrived else None,
        "adler32": row.adler32 if arrived else None,
        "fault": row.fault,
        "detail": row.detail,
        "transient": row.transient,
        "away": row.away,
        "started": None if row.started is None else format_time(row.started),
        "ended": None if row.ended is None else format_time(row.ended),
    }
