"""The ledger: what is asked of it while workers come, go and race each other."""

from __future__ import annotations

import asyncio
import uuid
import warnings
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from preparer.ledger import (
    FileState,
    KeyReused,
    Ledger,
    NewFile,
    NewTask,
    Outcome,
    SameUnderWay,
    TaskState,
    aftercare,
)
from preparer.ledger.documents import file_document
from preparer.ledger.requests import INSERT_ROWS
from preparer.ledger.tables import events, files, metadata, tasks
from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import create_async_engine
from voservice.testing import database_url, postgres

__all__ = ["database_url", "postgres"]

LEASE = 30.0


@pytest.fixture
async def ledger(database_url: str) -> AsyncIterator[Ledger]:
    """A ledger of the test's own."""
    engine = create_async_engine(database_url.replace("postgresql:", "postgresql+asyncpg:"), pool_size=20)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    yield Ledger(engine)
    await engine.dispose()


def request(count: int = 3, user: str = "ada", content: str | None = None, **more: Any) -> NewTask:
    """A request of *count* files."""
    files = [NewFile(f"s:f{n}", f"s/f{n}", f"/home/{user}/f{n}", size=10) for n in range(count)]
    return NewTask(
        username=user,
        subject=user,
        approach="cavern_api_approach",
        content_hash=content or uuid.uuid4().hex,
        files=files,
        credential=b"secret",
        **more,
    )


async def claim(ledger: Ledger, worker: str = "w1", user: int = 4, site: int = 32) -> Any:
    """The one task that a worker with one slot claims, or None."""
    return next(iter(await ledger.claim(worker, LEASE, 1, user, site)), None)


async def lose_worker(ledger: Ledger, task: uuid.UUID) -> None:
    """Let the lease of a task run out."""
    async with ledger.engine.begin() as connection:
        await connection.execute(
            text("UPDATE tasks SET lease = now() - interval '1 s' WHERE id = :t"), {"t": task}
        )


def staged(*numbers: int) -> list[Outcome]:
    return [Outcome(n, FileState.STAGED, 10) for n in numbers]


async def submit(ledger: Ledger, new: NewTask) -> tuple[uuid.UUID, bool]:
    task, created = await ledger.submit(new)
    return task.id, created


async def test_same_request_is_one_task_until_it_ends(ledger: Ledger) -> None:
    made = await asyncio.gather(*(submit(ledger, request(content="same")) for _ in range(20)))
    assert len({task for task, _ in made}) == 1
    assert sum(new for _, new in made) == 1
    other, new = await submit(ledger, request(content="same", user="bob"))
    assert new
    assert other != made[0][0]
    await ledger.cancel(made[0][0])
    assert (await submit(ledger, request(content="same")))[1]


@pytest.mark.parametrize("more", [{}, {"idempotency_key": "key"}])
@pytest.mark.parametrize("count", [3, INSERT_ROWS + 1])
async def test_the_same_request_made_often_at_once_is_one_task(
    ledger: Ledger, count: int, more: dict[str, Any]
) -> None:
    new = request(count, content="same", **more)
    made = await asyncio.gather(*(ledger.submit(new) for _ in range(10)))
    assert len({task.id for task, _ in made}) == 1
    assert [created for _, created in made].count(True) == 1
    assert len(await ledger.list_files(made[0][0].id, limit=2 * INSERT_ROWS)) == count


async def test_idempotency_key_outlives_the_task_and_belongs_to_one_request(ledger: Ledger) -> None:
    task, _ = await submit(ledger, request(content="a", idempotency_key="k"))
    await ledger.cancel(task)
    assert await submit(ledger, request(content="a", idempotency_key="k")) == (task, False)
    with pytest.raises(KeyReused):
        await submit(ledger, request(content="b", idempotency_key="k"))
    assert (await submit(ledger, request(content="b", idempotency_key="k", user="bob")))[1]


async def test_each_task_is_claimed_once(ledger: Ledger) -> None:
    made = {(await submit(ledger, request(user=f"u{n}")))[0] for n in range(10)}
    claimed = await asyncio.gather(*(claim(ledger, f"w{n}") for n in range(15)))
    found = [task.id for task in claimed if task is not None]
    assert len(found) == 10
    assert set(found) == made


async def test_workers_that_claim_at_once_keep_within_both_caps(ledger: Ledger) -> None:
    for number in range(24):
        await submit(ledger, request(user=f"u{number % 4}"))
    claimed = await asyncio.gather(*(claim(ledger, f"w{n}", user=2, site=7) for n in range(24)))
    users = [task.username for task in claimed if task is not None]
    assert len(users) == 7
    assert max(users.count(user) for user in users) == 2


async def test_users_share_fairly_within_both_caps(ledger: Ledger) -> None:
    for _ in range(5):
        await submit(ledger, request(user="greedy"))
    await submit(ledger, request(user="modest"))
    order = [(await claim(ledger, user=2, site=3)).username for _ in range(3)]
    assert order == ["greedy", "modest", "greedy"]
    assert await claim(ledger, user=2, site=3) is None
    assert await claim(ledger, user=2, site=4) is None
    assert (await claim(ledger, user=3, site=4)).username == "greedy"


async def test_many_tasks_claimed_at_once_are_those_that_would_be_claimed_one_by_one(ledger: Ledger) -> None:
    for user in ("greedy", "greedy", "greedy", "modest", "greedy", "late"):
        await submit(ledger, request(user=user))
    at_once = await ledger.claim("w1", LEASE, 10, 2, 4)
    assert sorted(task.username for task in at_once) == ["greedy", "greedy", "late", "modest"]
    assert await ledger.claim("w2", LEASE, 10, 2, 4) == []
    assert [task.username for task in await ledger.claim("w2", LEASE, 10, 4, 5)] == ["greedy"]


async def test_a_silent_worker_loses_its_task_and_may_not_close_it(ledger: Ledger) -> None:
    task, _ = await submit(ledger, request())
    await claim(ledger, "dead")
    assert await claim(ledger, "heir") is None
    await ledger.record(task, staged(0))
    await lose_worker(ledger, task)
    taken = await claim(ledger, "heir")
    assert (taken.id, taken.attempts, taken.files_done) == (task, 2, 1)
    assert await ledger.renew("dead", LEASE, [task]) == {}
    assert await ledger.renew("heir", LEASE, [task]) == {task: False}
    # Both tell of the same file; it counts once.
    await ledger.record(task, staged(0, 1))
    # Nor may it say that the rest fails, or that the job underneath is another.
    await ledger.job(task, "heir", "https://cavern/job", 7)
    await ledger.job(task, "dead", None)
    await ledger.fail(task, "dead", "TransferFailed", "Cavern cannot be asked")
    row = await ledger.task(task)
    assert row is not None
    assert (row.job, row.job_event, row.files_failed) == ("https://cavern/job", 7, 0)
    await ledger.record(task, staged(1, 2))
    assert await ledger.finish(task, "dead") is None
    closed = await ledger.finish(task, "heir")
    assert closed is not None
    assert (closed.state, closed.info) == (TaskState.SUCCEEDED, "Data provisioning successful")
    assert (closed.files_done, closed.bytes_done, closed.credential) == (3, 30, None)


async def test_a_lost_task_says_so_and_keeps_what_is_staged(ledger: Ledger) -> None:
    task, _ = await submit(ledger, request(callback="https://example.org/done"))
    for worker in ("dead", "heir"):
        assert (await claim(ledger, worker)).id == task
        await lose_worker(ledger, task)
    await ledger.record(task, staged(0))
    assert await ledger.lose(task, "dead", "Given up") is None
    row = await ledger.lose(task, "heir", "Given up")
    assert row is not None
    assert (row.state, row.files_done, row.files_failed) == (TaskState.LOST, 1, 2)
    assert row.callback_next is not None
    states = [(file.state, file.fault) for file in await ledger.list_files(task)]
    assert states == [("STAGED", None), ("FAILED", "Lost"), ("FAILED", "Lost")]


async def test_a_given_back_task_is_announced_again_and_costs_no_attempt(ledger: Ledger) -> None:
    task, _ = await submit(ledger, request())
    await claim(ledger)
    assert await ledger.unpublished() == []
    await ledger.release("w1", task)
    assert await ledger.unpublished() == [(task, None)]
    await ledger.published([task])
    assert await ledger.unpublished() == []
    assert (await claim(ledger, "w2")).attempts == 1


async def test_cancel_ends_what_waits_and_tells_whoever_works(ledger: Ledger) -> None:
    waiting, _ = await submit(ledger, request(lifetime=600))
    await claim(ledger)
    await ledger.record(waiting, staged(0))
    await ledger.release("w1", waiting)
    await ledger.cancel(waiting)
    row = await ledger.task(waiting)
    assert row is not None
    assert (row.state, row.info) == (TaskState.CANCELLED, "Cancelled: 1 of 3 files staged")
    # The copy made before has its lifetime, and the credential to remove it with.
    assert row.expires is not None
    assert row.credential == b"secret"
    running, _ = await submit(ledger, request())
    await claim(ledger)
    await ledger.cancel(running)
    assert await ledger.renew("w1", LEASE, [running]) == {running: True}
    closed = await ledger.finish(running, "w1")
    assert closed is not None
    assert closed.state == TaskState.CANCELLED
    assert {file.state for file in await ledger.list_files(running)} == {FileState.CANCELLED}


async def test_partial_failure_then_retry(ledger: Ledger) -> None:
    task, _ = await submit(ledger, request(content="x"))
    await claim(ledger)
    failed = Outcome(1, FileState.FAILED, fault="SourceNotFound", detail="not on the RSE")
    await ledger.record(task, [*staged(0, 2), failed])
    closed = await ledger.finish(task, "w1")
    assert closed is not None
    assert (closed.state, closed.info) == (
        TaskState.FAILED,
        "2 of 3 files staged; 1 failed: not on the RSE",
    )
    anew, _ = await submit(ledger, request(content="x"))
    with pytest.raises(SameUnderWay):
        await ledger.retry(task, b"new", None)
    assert [file.state for file in await ledger.list_files(task, ["FAILED"])] == ["FAILED"]
    await ledger.cancel(anew)
    counts = await asyncio.gather(*(ledger.retry(task, b"new", None) for _ in range(5)))
    assert sorted(counts) == [0, 0, 0, 0, 1]
    again = await claim(ledger)
    assert (again.id, again.credential, again.files_done, again.files_failed) == (task, b"new", 2, 0)
    await ledger.record(task, staged(1))
    closed = await ledger.finish(task, "w1")
    assert closed is not None
    assert (closed.state, closed.files_done) == (TaskState.SUCCEEDED, 3)


async def test_a_hundred_thousand_files_in_one_request(ledger: Ledger) -> None:
    task, _ = await submit(ledger, request(100_000))
    await claim(ledger)
    for start in range(0, 100_000, 10_000):
        await ledger.record(task, staged(*range(start, start + 10_000)))
    closed = await ledger.finish(task, "w1")
    assert closed is not None
    assert (closed.state, closed.files_done) == (TaskState.SUCCEEDED, 100_000)


async def test_callbacks_are_told_by_one_and_put_off_longer_each_time(ledger: Ledger) -> None:
    task, _ = await submit(ledger, request(1, callback="https://example.org/done"))
    await claim(ledger)
    await ledger.record(task, staged(0))
    await ledger.finish(task, "w1")
    looks = await asyncio.gather(*(ledger.due_callbacks() for _ in range(5)))
    assert [row.id for rows in looks for row in rows] == [task]
    assert await ledger.due_callbacks() == []
    await ledger.called_back(task, "204 No Content", final=True)
    row = await ledger.task(task)
    assert row is not None
    assert (row.callback_next, row.callback_status, row.callback_attempts) == (None, "204 No Content", 1)


async def test_a_file_on_tape_is_shown_as_such_until_it_is_there(ledger: Ledger) -> None:
    task, _ = await submit(ledger, request(3))
    await claim(ledger)
    words = "the storage element is bringing it from tape"
    waits = [Outcome(n, FileState.FAILED, fault="StagingFromTape", detail=words) for n in (0, 1)]
    await ledger.waiting(task, [(outcome, 60.0) for outcome in waits])
    shown = [file_document(file) for file in await ledger.list_files(task)]
    assert [(file["state"], file["attempts"]) for file in shown] == [
        ("STAGING_FROM_TAPE", 0),
        ("STAGING_FROM_TAPE", 0),
        ("PENDING", 0),
    ]
    assert (shown[0]["fault"], shown[0]["detail"]) == ("StagingFromTape", words)
    # To whoever stages it, it is pending as before.
    assert len(await ledger.list_files(task, [FileState.PENDING])) == 3
    assert [file.number for file in await ledger.list_files(task, [FileState.STAGING_FROM_TAPE])] == [0, 1]

    await ledger.record(task, [Outcome(0, FileState.STAGED, 10, rse="A")])
    await ledger.waiting(task, [(outcome, 60.0) for outcome in waits])
    first, second, _ = [file_document(file) for file in await ledger.list_files(task)]
    assert (first["state"], first["fault"], first["rse"]) == ("STAGED", None, "A")
    assert second["state"] == "STAGING_FROM_TAPE"


async def test_a_file_on_tape_is_waited_for_since_the_first_time_and_until_the_last(ledger: Ledger) -> None:
    """Whoever asks: the time is the ledger's."""
    task, _ = await submit(ledger, request(2))
    await claim(ledger)
    outcome = Outcome(0, FileState.FAILED, fault="StagingFromTape", detail="on its way")
    await ledger.waiting(task, [(outcome, 0.0)])
    since = (await ledger.pending(task, 10))[0].tape_since
    assert since is not None
    await ledger.waiting(task, [(outcome, 60.0)])
    (first, second) = await ledger.list_files(task)
    assert (first.tape_since, second.tape_since, second.not_before) == (since, None, None)
    assert first.not_before is not None
    assert 60 <= (first.not_before - since).total_seconds() < 120
    # What waits holds nothing else up.
    assert [file.number for file in await ledger.pending(task, 10)] == [1]
    assert await ledger.next_due(task) == first.not_before
    await ledger.record(task, staged(0, 1))
    assert (await ledger.pending(task, 10), await ledger.next_due(task)) == ([], None)


async def test_a_task_that_waits_is_nobodys_until_its_time_and_others_have_its_place(ledger: Ledger) -> None:
    first, _ = await submit(ledger, request(1))
    second, _ = await submit(ledger, request(1))
    assert (await claim(ledger, site=1)).id == first
    soon, later = (datetime.now(UTC) + timedelta(seconds=seconds) for seconds in (-1, 600))
    # By another than who has it nothing is postponed.
    await ledger.postpone("w2", first, later, "waits")
    assert await claim(ledger, "w2", site=1) is None
    await ledger.postpone("w1", first, later, "waits")
    waiting = await ledger.task(first)
    assert waiting is not None
    assert (waiting.state, waiting.worker, waiting.attempts, waiting.info) == ("QUEUED", None, 0, "waits")
    assert (await claim(ledger, "w2", site=1)).id == second
    assert await claim(ledger, "w2") is None
    await ledger.cancel(first)
    cancelled = await ledger.task(first)
    assert cancelled is not None
    assert cancelled.state == TaskState.CANCELLED

    await ledger.postpone("w2", second, soon, "waits")
    again = await claim(ledger)
    assert (again.id, again.not_before, again.info) == (second, None, None)
    # Cancelled while it is given back: it is claimed at once, to be ended.
    await ledger.cancel(second)
    await ledger.postpone("w1", second, later, "waits")
    assert (await claim(ledger)).id == second


async def test_a_claim_is_told_once_for_a_worker_and_an_attempt(ledger: Ledger) -> None:
    """However often a task that waits comes back."""
    task, _ = await submit(ledger, request(1))
    now = datetime.now(UTC)
    for worker in ("w1", "w1", "w2", "w1", "w2"):
        await claim(ledger, worker)
        await ledger.postpone(worker, task, now, "waits")
    await claim(ledger, "w1")
    await lose_worker(ledger, task)
    await claim(ledger, "w1")
    async with ledger.engine.connect() as connection:
        told = await connection.execute(
            text(
                "SELECT detail->>'worker', detail->>'attempt' FROM events WHERE kind = 'claimed' ORDER BY id"
            )
        )
        assert [tuple(row) for row in told] == [("w1", "1"), ("w2", "1"), ("w1", "2")]


async def test_tasks_are_counted_by_state_without_what_the_library_gives_up(ledger: Ledger) -> None:
    for _ in range(3):
        await submit(ledger, request(1))
    await claim(ledger)
    with warnings.catch_warnings(action="error"):
        assert await ledger.counts() == {TaskState.QUEUED: 2, TaskState.RUNNING: 1}
        assert await ledger.history() == []
        assert min(await ledger.oldest()) > 0


async def test_what_has_ended_is_counted_by_the_hour(ledger: Ledger) -> None:
    async with ledger.engine.begin() as connection:
        # Hours of the database's own begin in the middle of these.
        name = (await connection.execute(text("SELECT current_database()"))).scalar_one()
        await connection.execute(text(f"ALTER DATABASE {name} SET timezone = 'Asia/Kolkata'"))
    await ledger.engine.dispose()
    ended = [
        (timedelta(0), (3, 0, 30)),
        (timedelta(0), (1, 2, 10)),
        (timedelta(hours=2), (5, 0, 50)),
        (timedelta(days=1), (7, 0, 70)),
    ]
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    async with ledger.engine.begin() as connection:
        for ago, (done, failed, size) in ended:
            task, _ = await submit(ledger, request(1))
            await connection.execute(
                text(
                    "UPDATE tasks SET state = 'SUCCEEDED', finished = :at, files_done = :done, files_failed = :failed,"
                    " bytes_done = :size WHERE id = :task"
                ),
                {"at": hour - ago, "done": done, "failed": failed, "size": size, "task": task},
            )
    await submit(ledger, request(1))
    assert [(one.begin, one.tasks, one.staged, one.failed, one.bytes) for one in await ledger.hours()] == [
        (hour - timedelta(hours=2), 1, 5, 0, 50),
        (hour, 2, 4, 2, 40),
    ]


async def test_a_task_that_waits_for_tape_does_not_wait_for_a_worker(ledger: Ledger) -> None:
    await submit(ledger, request(1))
    task = await claim(ledger)
    await ledger.postpone("w1", task.id, datetime.now(UTC) + timedelta(hours=1), "waits")
    unfinished, waiting = await ledger.oldest()
    assert (unfinished > 0, waiting) == (True, 0)


async def end(ledger: Ledger, task: uuid.UUID, ago: timedelta) -> None:
    """Let a task have ended some time ago."""
    await ledger.cancel(task)
    async with ledger.engine.begin() as connection:
        await connection.execute(
            update(tasks).where(tasks.c.id == task).values(finished=datetime.now(UTC) - ago)
        )


async def test_old_tasks_are_removed_with_all_that_belongs_to_them(ledger: Ledger) -> None:
    year = timedelta(days=365)
    old, _ = await submit(ledger, request())
    await end(ledger, old, year + timedelta(days=1))
    recent, _ = await submit(ledger, request())
    await end(ledger, recent, year - timedelta(days=1))
    active, _ = await submit(ledger, request())
    assert await ledger.remove_ended(year) == 3
    assert await ledger.remove_ended(year) is None
    assert await ledger.task(old) is None
    assert {task.id for task in await ledger.list_tasks(None, None, None, 10)} == {recent, active}
    async with ledger.engine.connect() as connection:
        for table in (files, events):
            left = await connection.execute(select(table.c.task))
            assert {row[0] for row in left} == {recent, active}


@pytest.mark.parametrize(
    "value", [{"expires": func.now()}, {"callback_next": func.now()}, {"job": "its URL"}]
)
async def test_a_task_for_which_something_remains_to_be_done_stays(
    ledger: Ledger, value: dict[str, Any]
) -> None:
    task, _ = await submit(ledger, request())
    await end(ledger, task, timedelta(days=9))
    async with ledger.engine.begin() as connection:
        await connection.execute(update(tasks).values(value))
    assert await ledger.remove_ended(timedelta(days=1)) is None
    assert await ledger.task(task) is not None


async def test_tasks_are_removed_in_steps_the_oldest_first(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aftercare, "STEP_FILES", 7)
    made = []
    for count, days in ((3, 9), (4, 8), (20, 7), (1, 6)):
        task, _ = await submit(ledger, request(count))
        await end(ledger, task, timedelta(days=days))
        made.append(task)
    for removed, left in ((7, made[2:]), (20, made[3:]), (1, []), (None, [])):
        assert await ledger.remove_ended(timedelta(days=1)) == removed
        assert {task.id for task in await ledger.list_tasks(None, None, None, 10)} == set(left)


async def test_workers_that_find_too_many_files_remove_them_once(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As there are always more tasks than one step takes.
    monkeypatch.setattr(aftercare, "STEP_TASKS", 6)
    for days in range(1, 13):
        task, _ = await submit(ledger, request(10))
        await end(ledger, task, timedelta(days=days))

    async def work() -> int:
        removed = 0
        while (count := await ledger.remove_surplus(65, timedelta(hours=1))) is not None:
            removed += count
        return removed

    assert sum(await asyncio.gather(*(work() for _ in range(6)))) == 60
    assert len(await ledger.list_tasks(None, None, None, 100)) == 6


async def test_a_task_that_is_tried_again_is_not_removed(ledger: Ledger) -> None:
    task, _ = await submit(ledger, request())
    await end(ledger, task, timedelta(days=9))
    async with ledger.engine.begin() as connection:
        await connection.execute(select(tasks.c.id).with_for_update())
        assert await ledger.remove_ended(timedelta(days=1)) is None
    assert await ledger.retry(task, b"secret", None) == 3
    assert await ledger.remove_ended(timedelta(0)) is None


async def test_no_query_for_one_task_or_a_few_reads_all_of_them(database_url: str) -> None:
    engine = create_async_engine(database_url.replace("postgresql:", "postgresql+asyncpg:"), pool_size=1)
    ledger = Ledger(engine)

    async def scans() -> dict[str, int]:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT pg_stat_force_next_flush()"))
        async with engine.connect() as connection:
            found = await connection.execute(text("SELECT relname, seq_scan FROM pg_stat_user_tables"))
            return {name: count for name, count in found if name in ("tasks", "files", "events")}

    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    task, _ = await submit(ledger, request())
    async with engine.begin() as connection:
        for statement in (
            "INSERT INTO tasks (id, username, subject, approach, state, finished, content_hash, files, published,"
            " receipt) SELECT gen_random_uuid(), 'user' || n % 50, '', '', 'SUCCEEDED', now(), n, 1, true, true"
            " FROM generate_series(1, 5000) n",
            "INSERT INTO files (task, number, did, path, target) SELECT id, n, '', '', ''"
            " FROM tasks, generate_series(0, 19) n WHERE state = 'SUCCEEDED'",
            "INSERT INTO events (task, kind) SELECT id, 'x' FROM tasks",
        ):
            await connection.execute(text(statement))
        await connection.execute(text("ANALYZE"))
    before = await scans()
    assert before.keys() == {"tasks", "files", "events"}
    other, _ = await submit(ledger, request())
    await ledger.same("ada", "none", None)
    await ledger.active_count("ada")
    await ledger.task(task)
    await ledger.list_files(task)
    for user in ("ada", None):
        await ledger.list_tasks(user, None, None, 30)
    assert await claim(ledger) is not None
    await ledger.record(task, staged(0, 1, 2))
    await ledger.finish(task, "w1")
    assert len(await ledger.without_receipt(timedelta(0))) == 1
    await ledger.note_receipt(task)
    assert await ledger.without_receipt(timedelta(0)) == []
    await ledger.cancel(other)
    await ledger.due_callbacks()
    await ledger.expired()
    await ledger.orphaned()
    await ledger.history()
    await ledger.oldest()
    await ledger.ready()
    assert await ledger.remove_ended(timedelta(days=1)) is None
    after = await scans()
    # `ready` reads the first row that it finds.
    assert after == before | {"tasks": before["tasks"] + 1}
    await engine.dispose()
