"""The job engine on a real PostgreSQL, with several executors as several processes would be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from voservice.jobs import LeaseLost
from vospace.control.state import Control
from vospace.tables import metadata
from vospace.uws.executor import Executor, Pool, Run
from vospace.uws.model import (
    ErrorSummary,
    Job,
    JobFailure,
    Limits,
    Outcome,
    Parameter,
    Result,
    now,
)
from vospace.uws.service import JobService, Owner
from vospace.uws.tables import PHASE_CHANNEL
from vospace_client.terms import ExecutionPhase

Phase = ExecutionPhase
ADA = Owner("ada", {"username": "ada"})
LIMITS = {"test": Limits(execution=3600, destruction=86400)}


@pytest.fixture
async def service(store, make_notices) -> JobService:
    notices = make_notices()
    await notices.start()
    return JobService(store, notices, LIMITS)


Start = Callable[..., Awaitable[Executor]]


@pytest.fixture
async def start(store, make_notices) -> AsyncIterator[Start]:
    executors: list[Executor] = []

    async def start(runner, slots: int = 4, lease: float = 6, **options) -> Executor:
        notices = make_notices()
        executor = Executor(store, notices, [Pool(slots, {"test": runner})], lease=lease, **options)
        await notices.start()
        await executor.start()
        executors.append(executor)
        return executor

    yield start
    for executor in executors:
        await executor.stop()


async def submit(service: JobService, **options) -> Job:
    job = await service.create(service.new("test", ADA, **options))
    return await service.run(job)


async def ended(service: JobService, job: Job) -> Job:
    while job.phase.active:
        job = await service.wait(job.id, ADA, 10)
    return job


async def test_tables_and_migrations_agree(engine):
    def differences(connection):
        options = {"include_schemas": True, "compare_type": True, "version_table_schema": "vospace"}
        found = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
        flat = [change for entry in found for change in (entry if isinstance(entry, list) else [entry])]
        return [change for change in flat if change[0] != "modify_comment"]

    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_a_job_runs_and_its_waiter_hears_at_once(service, start):
    async def runner(run: Run) -> Outcome:
        return Outcome(results=(Result("answer", "final:42"),))

    await start(runner)
    job = await service.create(service.new("test", ADA, parameters=[Parameter("Target", "x")]))
    assert (await service.wait(job.id, ADA, 0)).phase is Phase.PENDING
    waiter = asyncio.create_task(service.wait(job.id, ADA, 60, Phase.PENDING))
    await asyncio.sleep(0)
    await service.run(job)
    assert (await waiter).phase is not Phase.PENDING
    job = await ended(service, job)
    assert job.phase is Phase.COMPLETED
    assert job.parameter("TARGET") == "x"
    assert job.result("answer") == Result("answer", "final:42")
    assert job.creation_time <= job.start_time <= job.end_time


async def test_each_job_runs_once_among_several_executors(service, start):
    runs: list[str] = []

    async def runner(run: Run) -> Outcome:
        runs.append(run.job.id)
        await asyncio.sleep(0.01)
        return Outcome()

    for _ in range(3):
        # Longer than any stall of the machine, after which another would rightly run the job again.
        await start(runner, slots=3, lease=60)
    jobs = [await submit(service) for _ in range(30)]
    for job in jobs:
        assert (await ended(service, job)).phase is Phase.COMPLETED
    assert sorted(runs) == sorted(job.id for job in jobs)


async def test_owners_take_turns(service, store):
    """Who submits many jobs leaves room for those who come after."""
    for name in ("ada", "ada", "ada", "ada", "bob", "eve", "bob"):
        job = service.new("test", Owner(name, {"username": name}))
        await service.run(await service.create(job))
    first = await store.claim("worker", ("test",), 3, 60)
    assert sorted(str(job.owner) for job in first) == ["ada", "bob", "eve"]
    then = await store.claim("other", ("test",), 2, 60)
    assert sorted(str(job.owner) for job in then) == ["ada", "bob"]
    assert [job.owner for job in await store.claim("worker", ("test",), 10, 60)] == ["ada", "ada"]


async def test_processes_that_claim_at_once_keep_within_an_owners_share(service, store):
    for _ in range(8):
        await submit(service)
    claimed = await asyncio.gather(*(store.claim(f"w{n}", ("test",), 1, 60, 3) for n in range(8)))
    assert sum(map(len, claimed)) == 3


async def test_a_late_look_at_a_job_whose_work_is_done(service, store, start, monkeypatch):
    """A changed execution duration that arrives while the outcome is being written changes nothing."""
    looked = asyncio.Event()
    finish = store.finish

    async def slow_finish(*arguments) -> bool:
        await executor._review(job.id)
        looked.set()
        return await finish(*arguments)

    async def runner(_run: Run) -> Outcome:
        return Outcome()

    monkeypatch.setattr(store, "finish", slow_finish)
    job = await service.create(service.new("test", ADA))
    executor = await start(runner)
    job = await ended(service, await service.run(job))
    assert looked.is_set()
    assert job.phase is Phase.COMPLETED


async def test_failures_are_told(service, start):
    async def runner(run: Run) -> Outcome:
        if run.job.parameter("how") == "fault":
            raise JobFailure("NodeNotFound: /x", transient=True)
        raise RuntimeError("broken")

    await start(runner)
    fault = await ended(service, await submit(service, parameters=[Parameter("how", "fault")]))
    assert (fault.phase, fault.error) == (Phase.ERROR, ErrorSummary("NodeNotFound: /x", transient=True))
    crash = await ended(service, await submit(service))
    assert (crash.phase, crash.error) == (Phase.ERROR, ErrorSummary("InternalFault: broken"))


async def test_abort_and_delete_stop_the_run_in_another_process(service, start):
    began, stopped = asyncio.Queue(), asyncio.Queue()

    async def runner(run: Run) -> Outcome:
        await began.put(run.job.id)
        try:
            await asyncio.sleep(3600)
        finally:
            await stopped.put(run.job.id)
        return Outcome()

    await start(runner)
    job = await submit(service)
    await began.get()
    await service.abort(job)
    assert await asyncio.wait_for(stopped.get(), 5) == job.id
    assert (await service.get(job.id, ADA)).phase is Phase.ABORTED
    other = await submit(service)
    await began.get()
    await service.delete(other)
    assert await asyncio.wait_for(stopped.get(), 5) == other.id


async def test_a_commit_cannot_be_aborted_halfway(service, start):
    inside, go = asyncio.Event(), asyncio.Event()

    async def runner(run: Run) -> None:
        async with run.committing() as connection:
            inside.set()
            await go.wait()
            await run.finish(connection, Outcome(results=(Result("done", "x:y"),)))

    await start(runner)
    job = await submit(service)
    await inside.wait()
    abort = asyncio.create_task(service.abort(job))
    await asyncio.sleep(0.1)
    assert not abort.done()
    go.set()
    await abort
    assert (await service.get(job.id, ADA)).phase is Phase.COMPLETED


async def test_a_dead_process_is_followed_by_another(service, start, store):
    async def runner(run: Run) -> Outcome:
        await run.checkpoint({"step": run.job.checkpoint.get("step", 0) + 1})
        return Outcome(results=(Result("step", f"final:{run.job.checkpoint['step']}"),))

    job = await submit(service)
    claimed = await store.claim("dead", ["test"], 1, 0.2)
    assert [c.id for c in claimed] == [job.id]
    await store.checkpoint("dead", job.id, {"step": 7})
    await start(runner, lease=0.6)
    job = await ended(service, job)
    assert (job.phase, job.results) == (Phase.COMPLETED, (Result("step", "final:7"),))
    with pytest.raises(LeaseLost):
        await store.checkpoint("dead", job.id, {"step": 9})
    assert not await store.finish("dead", job.id, Outcome(Phase.ERROR))


async def test_a_process_does_not_claim_what_it_runs(service, store):
    """Although the lease ran out; it is renewed unless another process claims the job first."""
    job = await submit(service)
    assert [claimed.id for claimed in await store.claim("stalled", ["test"], 1, 0.0)] == [job.id]
    assert await store.claim("stalled", ["test"], 1, 60, running=[job.id]) == []
    assert await store.renew("stalled", [job.id], 0.0) == {job.id}
    assert [claimed.id for claimed in await store.claim("other", ["test"], 1, 60)] == [job.id]
    assert await store.renew("stalled", [job.id], 60) == set()


async def test_a_database_that_stalls_stops_a_job_as_one_that_is_gone_does(service, start, engine):
    began, stopped = asyncio.Event(), asyncio.Event()

    async def runner(run: Run) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    await start(runner, lease=0.5)
    await submit(service)
    await began.wait()
    async with engine.begin() as connection:
        await connection.execute(text("LOCK TABLE vospace.job IN ACCESS EXCLUSIVE MODE"))
        async with asyncio.timeout(10):
            await stopped.wait()


async def test_a_fault_of_an_observer_is_seen(make_notices, eventually, caplog):
    notices = make_notices()

    def broken(_notice: str) -> None:
        raise KeyError("what nobody thought of")

    notices.observe(PHASE_CHANNEL, broken)
    await notices.start()
    await eventually(lambda: "No notices are heard any more" in caplog.messages)
    assert isinstance(caplog.records[-1].exc_info[1], KeyError)
    with pytest.raises(KeyError):
        await notices.stop()


async def test_a_job_that_kills_its_process_is_failed_at_last(service, start, store):
    job = await submit(service)
    for number in range(3):
        assert (await store.claim(f"dead{number}", ["test"], 1, 0.0))[0].id == job.id

    async def runner(run: Run) -> Outcome:
        return Outcome()

    await start(runner, max_attempts=3)
    job = await ended(service, job)
    assert job.phase is Phase.ERROR
    assert job.error == ErrorSummary("InternalFault: the service stopped 3 times while it ran this job", True)


async def test_a_stopping_process_gives_its_jobs_back_at_once(service, start):
    began = asyncio.Queue()

    async def slow(run: Run) -> Outcome:
        await began.put(run.job.id)
        await asyncio.sleep(3600)
        return Outcome()

    async def quick(run: Run) -> Outcome:
        return Outcome()

    first = await start(slow, lease=30)
    job = await submit(service)
    await began.get()
    await start(quick, lease=30)
    await first.stop()
    assert (await asyncio.wait_for(ended(service, job), 5)).phase is Phase.COMPLETED


async def test_nothing_asks_the_database_after_the_end(
    service, start, engine, store, make_notices, eventually, monkeypatch
):
    async def forever(*_) -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT pg_sleep(600)"))

    async def wait(run: Run) -> None:
        await asyncio.Event().wait()

    def in_use() -> int:
        return engine.pool.checkedout()

    executor = await start(wait)
    job = await submit(service)
    await service.wait(job.id, ADA, 10, Phase.QUEUED)
    monkeypatch.setattr(store, "get", forever)
    executor._on_notice("")  # as after a broken connection: looks at all that runs
    await eventually(lambda: in_use() == 1)
    await executor.stop()
    assert in_use() == 0

    control = Control(engine, make_notices())
    monkeypatch.setattr(control, "read", forever)
    control._read_soon()
    await eventually(lambda: in_use() == 1)
    await control.close()
    assert in_use() == 0


async def test_execution_duration_is_enforced_and_may_be_shortened(service, start):
    async def runner(run: Run) -> Outcome:
        await asyncio.sleep(3600)
        return Outcome()

    await start(runner)
    job = await service.create(service.new("test", ADA))
    assert (await service.set_execution_duration(job, 10**6)).execution_duration == 3600
    assert (await service.set_execution_duration(job, 0)).execution_duration == 3600
    await service.run(job)
    while (await service.get(job.id, ADA)).phase is not Phase.EXECUTING:
        await service.wait(job.id, ADA, 5, Phase.QUEUED)
    await service.set_execution_duration(job, 1)
    job = await ended(service, job)
    assert job.phase is Phase.ABORTED
    assert job.error.message == "the execution duration of 1 s is exceeded"


async def test_destruction_stops_and_removes(service, start, store, eventually):
    stopped = asyncio.Event()

    async def runner(run: Run) -> Outcome:
        try:
            await asyncio.sleep(3600)
        finally:
            stopped.set()
        return Outcome()

    await start(runner, housekeeping=0.1)
    job = await submit(service)
    while (await service.get(job.id, ADA)).phase is not Phase.EXECUTING:
        await service.wait(job.id, ADA, 5, Phase.QUEUED)
    await service.set_destruction(job, now() - timedelta(seconds=1))
    await asyncio.wait_for(stopped.wait(), 10)

    async def gone() -> bool:
        return await store.get(job.id) is None

    await eventually(gone)


@pytest.mark.parametrize(
    ("phase", "end", "error"),
    [(Phase.EXECUTING, Phase.COMPLETED, None), (Phase.SUSPENDED, Phase.ABORTED, ErrorSummary("over"))],
)
async def test_job_that_nobody_works_on_ends_with_its_duration(service, store, eventually, phase, end, error):
    job = await service.create(service.new("test", ADA, phase=phase))
    await service.set_execution_duration(job, 1)
    await eventually(lambda: store.end_overdue("over"))
    job = await service.get(job.id, ADA)
    assert (job.phase, job.error) == (end, error)


async def test_lists(service):
    jobs = [await service.create(service.new("test", ADA)) for _ in range(4)]
    await service.run(jobs[1])
    other = await service.create(service.new("test", Owner("bob", None)))
    listed = await service.references(["test"], ADA)
    assert [r.id for r in listed] == [j.id for j in reversed(jobs)]
    assert [r.id for r in await service.references(["test"], ADA, [Phase.QUEUED])] == [jobs[1].id]
    assert [r.id for r in await service.references(["test"], ADA, last=2)] == [jobs[3].id, jobs[2].id]
    after = await service.references(["test"], ADA, after=jobs[1].creation_time)
    assert [r.id for r in after] == [jobs[3].id, jobs[2].id]
    assert other.id not in {r.id for r in listed}


async def test_waiters_survive_a_broken_connection(service, engine):
    job = await service.create(service.new("test", ADA))
    waiter = asyncio.create_task(service.wait(job.id, ADA, 30))
    await asyncio.sleep(0.3)
    async with engine.connect() as connection:
        await connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
                " AND pid <> pg_backend_pid()"
            )
        )
        await connection.commit()
    await service.abort(job)
    assert (await asyncio.wait_for(waiter, 10)).phase is Phase.ABORTED
