"""Executor of UWS jobs in a server process: what `voservice.jobs` is to call for each, and what ends a run.

When a process dies another (or its successor) continues its jobs: a runner is written such that it may be started again
at any point, with what it left in the job's checkpoint. A job that was started `max_attempts` times without progress is
failed, since it may be what kills the process.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection
from voservice import jobs, tracing
from voservice.jobs import DATABASE_ERRORS, LeaseLost
from voservice.notices import Notices
from vospace_client.terms import ExecutionPhase

from vospace.uws.model import ErrorSummary, Job, JobFailure, Outcome, Result, now
from vospace.uws.store import JobStore
from vospace.uws.tables import PHASE_CHANNEL

logger = logging.getLogger(__name__)


class Run:
    """The job of a runner. Every method raises LeaseLost when the job is no longer its own."""

    def __init__(self, job: Job, store: JobStore, worker: str, timer: asyncio.Timeout | None = None) -> None:
        self.job = job
        self.aborted = False
        self.timer = timer
        self._store = store
        self._worker = worker

    @property
    def ends(self) -> bool:
        """Whether a run that is cancelled now was the last: the job is aborted or its time is over."""
        return self.aborted or (self.timer is not None and self.timer.expired())

    async def checkpoint(self, state: dict[str, Any]) -> None:
        """Leave what a later run needs to continue; counts as progress."""
        await self._store.checkpoint(self._worker, self.job.id, state)

    async def announce(self, *results: Result) -> None:
        """Publish results before the end."""
        await self._store.announce(self._worker, self.job.id, results)

    def committing(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Make an effect and the job's end one: inside, the job cannot be aborted; end it with `finish`."""
        return self._store.committing(self._worker, self.job.id)

    async def end(self, outcome: Outcome) -> None:
        """End the job outside of a runner."""
        await self._store.finish(self._worker, self.job.id, outcome)

    async def progress(self, connection: AsyncConnection) -> None:
        """Inside `committing`: count what is committed as progress."""
        if self.job.attempt > 1:
            await self._store.progress_with(connection, self.job.id)

    async def finish(self, connection: AsyncConnection, outcome: Outcome) -> None:
        """End the job inside `committing`."""
        await self._store.finish_with(connection, self._worker, self.job.id, outcome)


Runner = Callable[[Run], Awaitable[Outcome | None]]
"""Works on one job; None if it has ended the job itself (`Run.committing`). May raise JobFailure."""


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Kinds of jobs that share slots in each process."""

    slots: int
    runners: Mapping[str, Runner]
    most: int | None = None
    """Jobs of one owner that run at a time in all processes."""


class _Jobs:
    """The jobs of one pool, as the engine asks for them."""

    def __init__(self, store: JobStore, pool: Pool, run: Callable[[Job, Runner], Awaitable[None]]) -> None:
        self._store = store
        self._pool = pool
        self._run = run

    async def claim(self, worker: str, lease: float, limit: int, running: Collection[str]) -> dict[str, Job]:
        claimed = await self._store.claim(
            worker, tuple(self._pool.runners), limit, lease, self._pool.most, running
        )
        return {job.id: job for job in claimed}

    async def renew(self, worker: str, lease: float, jobs: Collection[str]) -> Collection[str]:
        return await self._store.renew(worker, jobs, lease)

    async def release(self, worker: str, job: str) -> None:
        await self._store.release(worker, job)

    async def work(self, job: Job) -> None:
        await self._run(job, self._pool.runners[job.kind])


class Executor:
    """Runs jobs of the given pools in this process."""

    def __init__(
        self,
        store: JobStore,
        notices: Notices,
        pools: Sequence[Pool],
        *,
        lease: float = 15.0,
        max_attempts: int = 5,
        housekeeping: float = 30.0,
        anonymous_jobs: int = 1000,
    ) -> None:
        self.worker = secrets.token_hex(8)
        self._store = store
        self._lease = lease
        self._max_attempts = max_attempts
        self._housekeeping = housekeeping
        self._anonymous_jobs = anonymous_jobs
        self._executors: list[jobs.Executor[str, Job]] = []
        self._of_kind: dict[str, jobs.Executor[str, Job]] = {}
        for pool in pools:
            executor = jobs.Executor(_Jobs(store, pool, self._run), self.worker, pool.slots, lease=lease)
            self._executors.append(executor)
            self._of_kind |= dict.fromkeys(pool.runners, executor)
        self._runs: dict[str, Run] = {}
        self._working: list[asyncio.Task[None]] = []
        self._cleaning: asyncio.Task[None] | None = None
        self._reviews: set[asyncio.Task[None]] = set()
        notices.observe(PHASE_CHANNEL, self._on_notice)

    async def start(self) -> None:
        """Begin to work on jobs."""
        self._working = [asyncio.create_task(executor.run()) for executor in self._executors]
        self._cleaning = asyncio.create_task(jobs.repeat(self._clean, self._housekeeping))

    async def stop(self) -> None:
        """Stop working: unfinished jobs are given back and continue elsewhere or at the next start."""
        for executor in self._executors:
            executor.stop()
        await asyncio.gather(*self._working)
        others = [task for task in (self._cleaning, *self._reviews) if task is not None]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def pause(self, paused: bool) -> None:
        """Begin no further job while paused; what runs goes on."""
        for executor in self._executors:
            executor.pause(paused)

    @asynccontextmanager
    async def holding(self, job: Job) -> AsyncIterator[Run]:
        """Lease a SUSPENDED job for work done inside a request; it is EXECUTING until the block ends it.

        The block's task is cancelled when the job is aborted. Raises LeaseLost if the job is not SUSPENDED."""
        held = await self._store.hold(self.worker, job.id, self._lease)
        if held is None:
            raise LeaseLost(job.id)
        with self._of_kind[job.kind].keeping(job.id):
            yield Run(held, self._store, self.worker)

    async def _run(self, job: Job, runner: Runner) -> None:
        attributes: tracing.Attributes = {"job": job.id, "attempt": job.attempt}
        with tracing.resumed(f"run {job.kind}", job.trace, attributes) as span:
            outcome = await self._outcome(job, runner)
            if outcome is not None:
                span.set("phase", outcome.phase)
                if not await self._store.finish(self.worker, job.id, outcome):
                    raise LeaseLost(job.id)

    async def _outcome(self, job: Job, runner: Runner) -> Outcome | None:
        if job.attempt > self._max_attempts:
            message = f"InternalFault: the service stopped {job.attempt - 1} times while it ran this job"
            return Outcome(ExecutionPhase.ERROR, job.results, ErrorSummary(message, transient=True))
        timer = asyncio.timeout(_remaining(job))
        try:
            async with timer:
                run = self._runs[job.id] = Run(job, self._store, self.worker, timer)
                try:
                    return await runner(run)
                finally:
                    del self._runs[job.id]
        except JobFailure as failure:
            return Outcome(ExecutionPhase.ERROR, failure.results or job.results, failure.summary)
        except TimeoutError:
            if not timer.expired():
                logger.exception("job %s failed", job.id)
                return _internal_fault(job, "a time limit was exceeded")
            current = await self._store.get(job.id) or job
            message = f"the execution duration of {current.execution_duration} s is exceeded"
            return Outcome(ExecutionPhase.ABORTED, current.results, ErrorSummary(message))
        except (LeaseLost, *DATABASE_ERRORS):
            raise
        except Exception as error:
            logger.exception("job %s failed", job.id)
            return _internal_fault(job, str(error) or type(error).__name__)

    # Notices and housekeeping.

    def _on_notice(self, notice: str) -> None:
        if not notice:
            for each in self._executors:
                each.wake.set()
                for job_id in each.running:
                    self._look_again(job_id)
            return
        job_id, phase, kind = notice.split(" ", 2)
        executor = self._of_kind.get(kind)
        if executor is None:
            return
        if job_id not in executor.running:
            if phase in (ExecutionPhase.QUEUED, "RELEASED"):
                executor.wake.set()
        elif phase in (ExecutionPhase.ABORTED, "DELETED"):
            self._end(job_id)
            executor.drop(job_id)
        elif phase == ExecutionPhase.EXECUTING:
            self._look_again(job_id)

    def _look_again(self, job_id: str) -> None:
        task = asyncio.create_task(self._review(job_id))
        self._reviews.add(task)
        task.add_done_callback(self._reviews.discard)

    async def _review(self, job_id: str) -> None:
        """Take over a changed execution duration; stop what was aborted while we did not listen."""
        try:
            job = await self._store.get(job_id)
        except DATABASE_ERRORS:
            return
        if job is None or job.phase is ExecutionPhase.ABORTED:
            self._end(job_id)
            for executor in self._executors:
                executor.drop(job_id)
        elif (
            (run := self._runs.get(job_id)) is not None and run.timer is not None and not run.timer.expired()
        ):
            remaining = _remaining(job)
            loop = asyncio.get_running_loop()
            run.timer.reschedule(None if remaining is None else loop.time() + remaining)

    def _end(self, job_id: str) -> None:
        if (run := self._runs.get(job_id)) is not None:
            run.aborted = True

    async def _clean(self) -> None:
        await self._store.end_overdue("the execution duration is exceeded")
        while await self._store.destroy_expired():
            pass
        while await self._store.drop_anonymous(self._anonymous_jobs):
            pass


def _remaining(job: Job) -> float | None:
    """Seconds left of the execution duration, None without limit."""
    if job.execution_duration <= 0:
        return None
    used = (now() - job.start_time).total_seconds() if job.start_time else 0.0
    return max(0.0, job.execution_duration - used)


def _internal_fault(job: Job, detail: str) -> Outcome:
    return Outcome(ExecutionPhase.ERROR, job.results, ErrorSummary(f"InternalFault: {detail}"))
