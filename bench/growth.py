"""The ledger as it grows: queries among a million ended tasks with ten million files, against those among a hundred.

It needs no deployment, only PostgreSQL's programs; the rows are made by SQL. ``BENCH_TASKS`` is the number of tasks, of
ten files each.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any

from preparer.ledger import Ledger, NewFile, NewTask, Outcome
from preparer.ledger.tables import FileState, metadata
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from voservice.testing import new_database, postgres_server

TASKS = int(os.environ.get("BENCH_TASKS", "1000000"))
FILES_EACH = 10
USERS = 10_000
FEW = 100
ROUNDS = 30
Result = dict[str, Any]
Query = Callable[[Ledger], Awaitable[object]]

FILL = (
    """INSERT INTO tasks (id, username, subject, approach, state, created, started, finished, content_hash, files,
        files_done, bytes_total, bytes_done, published, receipt)
    SELECT md5(n::text)::uuid, 'user' || n % :users, 'subject', 'cavern_api_approach', 'SUCCEEDED',
        now() - (:tasks - n) * interval '1 s', now() - (:tasks - n) * interval '1 s',
        now() - (:tasks - n) * interval '1 s', md5('content' || n), :each, :each, 1000, 1000, true, true
    FROM generate_series(1, :tasks) n""",
    """INSERT INTO files (task, number, did, path, target, size, state, attempts, bytes, found_md5, found_adler32,
        finished)
    SELECT md5(n::text)::uuid, f, 'testing:observation_' || n || '_' || f || '.fits',
        'testing/ab/cd/observation_' || n || '_' || f || '.fits',
        '/home/user' || n % :users || '/observation_' || n || '_' || f || '.fits', 1000, 'STAGED', 1, 1000,
        md5(n::text), '00000001', now()
    FROM generate_series(1, :tasks) n, generate_series(0, :each - 1) f""",
    """INSERT INTO events (task, kind, at)
    SELECT md5(n::text)::uuid, kind, now() - (:tasks - n) * interval '1 s'
    FROM generate_series(1, :tasks) n, unnest(ARRAY['submitted', 'claimed', 'succeeded', 'receipt']) kind""",
)


def request(user: str) -> NewTask:
    """Return a new request of ten files."""
    files = [NewFile(f"t:{uuid.uuid4()}", f"t/{n}", f"/home/{user}/{n}", 1000) for n in range(FILES_EACH)]
    return NewTask(user, user, "cavern_api_approach", uuid.uuid4().hex, files, b"credential")


async def submit(ledger: Ledger) -> object:
    """Make a task."""
    return await ledger.submit(request("user1"))


async def stage(ledger: Ledger) -> object:
    """Claim the task that waits, record its files and end it."""
    (task,) = await ledger.claim("worker", 30, 1, 4, 32)
    await ledger.record(task.id, [Outcome(n, FileState.STAGED, 1000) for n in range(FILES_EACH)])
    ended = await ledger.finish(task.id, "worker")
    await ledger.note_receipt(task.id)
    return ended


async def read(ledger: Ledger) -> object:
    """Read a user's latest task and its files."""
    (task,) = await ledger.list_tasks("user1", None, None, 1)
    await ledger.task(task.id, "user1")
    return await ledger.list_files(task.id)


async def care(ledger: Ledger) -> object:
    """Ask for what aftercare is due."""
    await ledger.due_callbacks()
    await ledger.expired()
    await ledger.without_receipt(timedelta(seconds=30))
    return await ledger.orphaned()


QUERIES: dict[str, Query] = {
    "submit ten files": submit,
    "claim, record and end a task": stage,
    "count a user's unfinished tasks": lambda ledger: ledger.active_count("user1"),
    "read a task and its files": read,
    "list a user's latest tasks": lambda ledger: ledger.list_tasks("user1", None, None, 30),
    "list everybody's latest tasks": lambda ledger: ledger.list_tasks(None, None, None, 30),
    "look for aftercare": care,
    "estimate from the latest tasks": lambda ledger: ledger.history(),
    "what each hour of a day came to": lambda ledger: ledger.hours(),
    "count tasks by state, for metrics": lambda ledger: ledger.counts(),
    "look for tasks to remove": lambda ledger: ledger.remove_ended(timedelta(days=400)),
    "look for too many files": lambda ledger: ledger.remove_surplus(1 << 40, timedelta(hours=1)),
}


async def _ledger(url: str) -> Ledger:
    engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"))
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    return Ledger(engine)


async def _filled(url: str, count: int) -> Ledger:
    ledger = await _ledger(url)
    for statement in FILL:
        async with ledger.engine.begin() as connection:
            await connection.execute(text(statement), {"tasks": count, "each": FILES_EACH, "users": USERS})
    async with ledger.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text("VACUUM ANALYZE"))
    return ledger


async def _measure(few_url: str, many_url: str) -> list[Result]:
    begin = time.perf_counter()
    few, many = await _filled(few_url, FEW), await _filled(many_url, TASKS)
    async with many.engine.connect() as connection:
        size = int(await connection.scalar(text("SELECT pg_database_size(current_database())")) or 0)
    results = [
        {
            "measurement": f"ledger of {TASKS:,} tasks with {TASKS * FILES_EACH:,} files",
            "ours": round(size / (TASKS * FILES_EACH)),
            "unit": "bytes/file",
            "filled_in_s": round(time.perf_counter() - begin),
        }
    ]
    took: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in QUERIES}
    for _ in range(ROUNDS):
        for name, query in QUERIES.items():
            for ledger, seconds in zip((few, many), took[name], strict=True):
                begin = time.perf_counter()
                await query(ledger)
                seconds.append(time.perf_counter() - begin)
    for name, (small, large) in took.items():
        ours, theirs = statistics.median(large), statistics.median(small)
        results.append(
            {
                "measurement": name,
                "ours": round(ours * 1000, 2),
                "peer": f"a ledger of {FEW} tasks",
                "theirs": round(theirs * 1000, 2),
                "unit": "ms",
                "ratio": round(ours / theirs, 2),
            }
        )
    for ledger in (few, many):
        await ledger.engine.dispose()
    return results


def measure() -> Iterator[Result]:
    """Yield the results."""
    with postgres_server() as server, new_database(server) as few, new_database(server) as many:
        yield from asyncio.run(_measure(few, many))
