"""The loops of a process that works on jobs, with a queue of the test's own; on PostgreSQL they run in the services."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
from voservice.jobs import Executor

LEASE = 0.3


@dataclass
class Jobs:
    """Jobs in memory, each with the worker that has it."""

    act: Callable[[str], Awaitable[None]]
    holders: dict[str, str | None] = field(default_factory=dict)
    released: list[str] = field(default_factory=list)
    away: bool = False
    refused: int = 0

    def add(self, *names: str) -> None:
        self.holders |= dict.fromkeys(names)

    def require(self) -> None:
        if self.away:
            self.refused += 1
            raise ConnectionResetError

    async def claim(self, worker: str, lease: float, limit: int, running: Collection[str]) -> dict[str, str]:
        self.require()
        free = [name for name, holder in self.holders.items() if holder is None and name not in running][
            :limit
        ]
        self.holders |= dict.fromkeys(free, worker)
        return {name: name for name in free}

    async def renew(self, worker: str, lease: float, jobs: Collection[str]) -> list[str]:
        self.require()
        return [job for job in jobs if self.holders.get(job) == worker]

    async def release(self, worker: str, job: str) -> None:
        self.require()
        if self.holders.get(job) == worker:
            self.holders[job] = None
            self.released.append(job)

    async def work(self, job: str) -> None:
        await self.act(job)
        del self.holders[job]


@asynccontextmanager
async def working(jobs: Jobs, slots: int = 2, **options: float) -> AsyncIterator[Executor[str, str]]:
    executor = Executor(jobs, "me", slots, lease=LEASE, **options)
    running = asyncio.create_task(executor.run())
    yield executor
    executor.stop()
    await asyncio.wait_for(running, 5)


async def until(wanted: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while True:
            if wanted():
                return
            await asyncio.sleep(0.005)


class Endless:
    """Work that only ends from outside."""

    def __init__(self) -> None:
        """Nothing runs."""
        self.began: list[str] = []
        self.stopped: list[str] = []

    async def __call__(self, job: str) -> None:
        self.began.append(job)
        try:
            await asyncio.Event().wait()
        finally:
            self.stopped.append(job)


async def test_slots_are_filled_again_as_jobs_end() -> None:
    begun: list[str] = []
    going = asyncio.Event()

    async def act(job: str) -> None:
        begun.append(job)
        await going.wait()

    jobs = Jobs(act)
    jobs.add("a", "b", "c")
    async with working(jobs, poll=60):
        await until(lambda: begun == ["a", "b"])
        going.set()
        await until(lambda: not jobs.holders)
    assert begun == ["a", "b", "c"]


async def test_unfinished_jobs_are_given_back_and_no_other_is_begun() -> None:
    act = Endless()
    jobs = Jobs(act)
    jobs.add("a", "b", "c")
    async with working(jobs):
        await until(lambda: act.began == ["a", "b"])
    assert jobs.released == ["a", "b"]
    assert jobs.holders == {"a": None, "b": None, "c": None}


async def test_what_is_claimed_while_stopping_is_given_back() -> None:
    """Also where its work has not taken a step."""
    asked, go = asyncio.Event(), asyncio.Event()

    class Slow(Jobs):
        async def claim(
            self, worker: str, lease: float, limit: int, running: Collection[str]
        ) -> dict[str, str]:
            asked.set()
            await go.wait()
            return await super().claim(worker, lease, limit, running)

    jobs = Slow(Endless())
    jobs.add("a")
    async with working(jobs) as executor:
        await asked.wait()
        executor.stop()
        go.set()
    assert jobs.released == ["a"]


async def test_a_job_that_another_has_is_stopped_and_not_given_back() -> None:
    act = Endless()
    jobs = Jobs(act)
    jobs.add("a")
    async with working(jobs):
        await until(lambda: act.began == ["a"])
        jobs.holders["a"] = "another"
        await until(lambda: act.stopped == ["a"])
    assert jobs.holders == {"a": "another"}
    assert jobs.released == []


async def test_a_job_is_stopped_when_its_lease_may_have_run_out() -> None:
    act = Endless()
    jobs = Jobs(act)
    jobs.add("a")
    async with working(jobs, beat=0.02) as executor:
        await until(lambda: act.began == ["a"])
        jobs.away = True
        await until(lambda: jobs.refused)
        assert act.stopped == []
        await until(lambda: act.stopped == ["a"])
        assert executor.running == {}
        jobs.away = False


async def test_a_job_whose_lease_ran_out_goes_on_where_it_runs() -> None:
    """Where the process stalled for longer than its lease, and no other has claimed the job."""
    act = Endless()
    jobs = Jobs(act)
    jobs.add("a")
    async with working(jobs, beat=60) as executor:
        await until(lambda: act.began == ["a"])
        jobs.holders["a"] = None
        jobs.add("b")
        executor.wake.set()
        await until(lambda: act.began == ["a", "b"])
        assert act.stopped == []


async def test_a_job_is_stopped_when_nobody_answers_whose_it_is() -> None:
    """Where the database accepts what it is asked, and stalls."""
    act, asked = Endless(), asyncio.Event()

    class Stalled(Jobs):
        async def renew(self, worker: str, lease: float, jobs: Collection[str]) -> list[str]:
            if not act.began:
                return await super().renew(worker, lease, jobs)
            asked.set()
            return await asyncio.Event().wait() or []

    jobs = Stalled(act)
    jobs.add("a")
    async with working(jobs, beat=0.02):
        await asked.wait()
        await until(lambda: act.stopped == ["a"])


async def test_a_claim_that_hangs_is_made_again() -> None:
    act, asked = Endless(), asyncio.Event()

    class Stalled(Jobs):
        async def claim(
            self, worker: str, lease: float, limit: int, running: Collection[str]
        ) -> dict[str, str]:
            if not asked.is_set():
                asked.set()
                await asyncio.Event().wait()
            return await super().claim(worker, lease, limit, running)

    jobs = Stalled(act)
    jobs.add("a")
    async with working(jobs):
        await until(lambda: act.began == ["a"])


async def test_a_job_that_is_stopped_is_given_back() -> None:
    act = Endless()
    jobs = Jobs(act)
    jobs.add("a")
    async with working(jobs, poll=60) as executor:
        await until(lambda: act.began == ["a"])
        executor.drop("a")
        await until(lambda: jobs.released == ["a"])


async def test_work_that_goes_on_when_it_is_cancelled_is_cancelled_again() -> None:
    cancelled: list[str] = []

    async def act(job: str) -> None:
        for _ in range(2):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(job)
        await asyncio.Event().wait()

    jobs = Jobs(act)
    jobs.add("a")
    async with working(jobs) as executor:
        await until(lambda: "a" in executor.running)
        await asyncio.sleep(0)
    assert cancelled == ["a", "a"]
    assert jobs.released == ["a"]


async def test_a_stop_ends_although_work_does_not(caplog: pytest.LogCaptureFixture) -> None:
    going = asyncio.Event()

    async def act(_job: str) -> None:
        while not going.is_set():
            with suppress(asyncio.CancelledError):
                await going.wait()

    jobs = Jobs(act)
    jobs.add("a")
    async with working(jobs, patience=LEASE) as executor:
        await until(lambda: "a" in executor.running)
        await asyncio.sleep(0)
    assert [record.message for record in caplog.records][-1] == "Work on jobs does not stop"
    going.set()
    await until(lambda: not executor.running)


async def test_what_follows_the_end_of_a_job_is_not_interrupted() -> None:
    writing, written = asyncio.Event(), asyncio.Event()

    async def act(job: str) -> None:
        jobs.holders[job] = "nobody"
        executor.ended(job)
        writing.set()
        await asyncio.sleep(2 * LEASE)
        written.set()

    jobs = Jobs(act)
    jobs.add("a")
    async with working(jobs, beat=0.02) as executor:
        await writing.wait()
    assert written.is_set()


async def test_a_job_that_is_dropped_at_once_leaves_its_slot() -> None:
    act = Endless()

    class Dropped(Jobs):
        async def claim(
            self, worker: str, lease: float, limit: int, running: Collection[str]
        ) -> dict[str, str]:
            claimed = await super().claim(worker, lease, limit, running)
            # After the claim, before the first step of the work.
            for job in claimed:
                asyncio.get_running_loop().call_soon(executor.drop, job)
                self.holders[job] = "another"
            return claimed

    jobs = Dropped(act)
    jobs.add("a")
    async with working(jobs) as executor:
        await until(lambda: jobs.holders == {"a": "another"})
        await until(lambda: executor.running == {})


async def test_a_failing_job_and_a_failing_queue_end_nothing() -> None:
    tries: list[str] = []

    async def act(job: str) -> None:
        tries.append(job)
        raise KeyError("what nobody thought of")

    jobs = Jobs(act)
    jobs.add("a")
    async with working(jobs, poll=0.01):
        await until(lambda: tries == ["a"])
        jobs.away = True
        await until(lambda: jobs.refused)
        jobs.away = False
        jobs.add("b")
        await until(lambda: tries == ["a", "b"])


async def test_a_paused_executor_begins_nothing_and_goes_on_with_what_runs() -> None:
    act = Endless()
    jobs = Jobs(act)
    jobs.add("a")
    async with working(jobs, poll=60) as executor:
        await until(lambda: act.began == ["a"])
        jobs.add("b")
        executor.pause(True)
        await until(lambda: not executor.wake.is_set())
        assert (act.began, act.stopped) == (["a"], [])
        executor.pause(False)
        await until(lambda: act.began == ["a", "b"])


async def test_work_of_the_caller_keeps_its_lease_and_takes_no_slot() -> None:
    act = Endless()
    jobs = Jobs(act, {"mine": "me"})

    async def download() -> None:
        with executor.keeping("mine"):
            await asyncio.Event().wait()

    async with working(jobs, slots=1, beat=0.02) as executor:
        own = asyncio.create_task(download())
        await until(lambda: "mine" in executor.running)
        jobs.add("a")
        executor.wake.set()
        await until(lambda: act.began == ["a"])
        jobs.holders["mine"] = "another"
        with pytest.raises(asyncio.CancelledError):
            await own
        assert list(executor.running) == ["a"]
