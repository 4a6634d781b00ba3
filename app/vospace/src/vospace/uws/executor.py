"""Executor of jobs: each server process leases queued jobs from the table and works on them in its event loop.

A process takes jobs as it has free slots, renews their leases by a heartbeat, and gives them back when it stops. When
a process dies its leases run out and another process (or its successor) continues the job: a runner is written such
that it may be started again at any point, with what it left in the job's checkpoint. A job that was started
`max_attempts` times without progress is failed, since it may be what kills the process.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection
from vospace_client.terms import ExecutionPhase

from vospace.uws.model import ErrorSummary, Job, JobFailure, LeaseLost, Outcome, Result, now
from vospace.uws.notices import Notices
from vospace.uws.store import JobStore

logger = logging.getLogger(__name__)

DATABASE_ERRORS = (SQLAlchemyError, OSError)


class Run:
    """The job of a runner. Every method raises LeaseLost when the job is no longer its own."""

    def __init__(self, job: Job, store: JobStore, worker: str) -> None:
        self.job = job
        self._store = store
        self._worker = worker

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

    name: str
    slots: int
    runners: Mapping[str, Runner]
    most: int | None = None
    """Jobs of one owner that run at a time in all processes."""


@dataclass(slots=True)
class _Running:
    task: asyncio.Task[Any]
    pool: str | None
    timer: asyncio.Timeout | None = None
    stop: bool = False


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
        self._pools = pools
        self._lease = lease
        self._max_attempts = max_attempts
        self._housekeeping = housekeeping
        self._anonymous_jobs = anonymous_jobs
        self._running: dict[str, _Running] = {}
        self._wake = asyncio.Event()
        self._look_in: set[Pool] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._reviews: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._paused = False
        notices.observe(self._on_notice)

    async def start(self) -> None:
        loops = (self._claim_loop, self._heartbeat_loop, self._housekeeping_loop)
        self._tasks = [asyncio.create_task(loop(), name=loop.__name__) for loop in loops]

    async def stop(self) -> None:
        """Stop working: unfinished jobs are given back and continue elsewhere or at the next start."""
        self._stopping = True
        for task in self._tasks[:1] + self._tasks[2:]:
            task.cancel()
        for running in self._running.values():
            running.task.cancel()
        while self._running:
            await asyncio.wait([running.task for running in self._running.values()])
        remaining = [*self._tasks, *self._reviews]
        for task in remaining:
            task.cancel()
        await asyncio.gather(*remaining, return_exceptions=True)

    def pause(self, paused: bool) -> None:
        """Begin no further job while paused; what runs goes on."""
        self._paused = paused
        self._look()

    @asynccontextmanager
    async def holding(self, job: Job) -> AsyncIterator[Run]:
        """Lease a SUSPENDED job for work done inside a request; it is EXECUTING until the block ends it.

        The block's task is cancelled when the job is aborted. Raises LeaseLost if the job is not SUSPENDED."""
        held = await self._store.hold(self.worker, job.id, self._lease)
        task = asyncio.current_task()
        if held is None or task is None:
            raise LeaseLost(job.id)
        self._running[job.id] = _Running(task, None)
        try:
            yield Run(held, self._store, self.worker)
        finally:
            self._running.pop(job.id, None)

    # Claiming and running.

    def _look(self, kind: str | None = None) -> None:
        """Look for jobs soon, of that kind or of all."""
        self._look_in.update(pool for pool in self._pools if kind is None or kind in pool.runners)
        self._wake.set()

    async def _claim_loop(self) -> None:
        self._look()
        while True:
            self._wake.clear()
            pools, self._look_in = self._look_in, set()
            try:
                for pool in pools:
                    await self._claim(pool)
            except DATABASE_ERRORS as error:
                logger.warning("cannot look for jobs: %s", error)
            try:
                async with asyncio.timeout(self._lease / 3):
                    await self._wake.wait()
            except TimeoutError:
                self._look()

    async def _claim(self, pool: Pool) -> None:
        if self._paused:
            return
        busy = sum(running.pool == pool.name for running in self._running.values())
        if busy >= pool.slots:
            return
        free = pool.slots - busy
        for job in await self._store.claim(self.worker, tuple(pool.runners), free, self._lease, pool.most):
            if (
                job.id in self._running
            ):  # our own lease ran out while the loop was stalled: begin it anew later
                self._running[job.id].task.cancel()
                continue
            task = asyncio.create_task(self._work(job, pool.runners[job.kind]), name=f"job {job.id}")
            self._running[job.id] = _Running(task, pool.name)

    async def _work(self, job: Job, runner: Runner) -> None:
        try:
            outcome = await self._outcome(job, runner)
            if outcome is not None and not await self._store.finish(self.worker, job.id, outcome):
                logger.info("job %s was ended by someone else", job.id)
        except LeaseLost:
            logger.info("job %s is no longer ours", job.id)
        except asyncio.CancelledError:
            if not self._stopping or self._running[job.id].stop:
                logger.info("job %s stopped", job.id)
                return
            with suppress(*DATABASE_ERRORS):
                await self._store.release(self.worker, job.id)
        except DATABASE_ERRORS as error:
            # The lease runs out and the job is continued then, by whoever sees the database first.
            logger.warning("job %s lost the database: %s", job.id, error)
        finally:
            self._running.pop(job.id, None)
            self._look(job.kind)

    async def _outcome(self, job: Job, runner: Runner) -> Outcome | None:
        if job.attempt > self._max_attempts:
            message = f"InternalFault: the service stopped {job.attempt - 1} times while it ran this job"
            return Outcome(ExecutionPhase.ERROR, job.results, ErrorSummary(message, transient=True))
        running = self._running[job.id]
        timer = asyncio.timeout(_remaining(job))
        try:
            async with timer:
                running.timer = timer
                try:
                    return await runner(Run(job, self._store, self.worker))
                finally:
                    running.timer = None
        except JobFailure as failure:
            return Outcome(ExecutionPhase.ERROR, failure.results or job.results, failure.summary)
        except TimeoutError:
            if not timer.expired():
                logger.exception("job %s failed", job.id)
                return _internal_fault(job, "a time limit was exceeded")
            current = await self._store.get(job.id) or job
            message = f"the execution duration of {current.execution_duration} s is exceeded"
            return Outcome(ExecutionPhase.ABORTED, current.results, ErrorSummary(message))
        except (LeaseLost, asyncio.CancelledError, *DATABASE_ERRORS):
            raise
        except Exception as error:
            logger.exception("job %s failed", job.id)
            return _internal_fault(job, str(error) or type(error).__name__)

    # Notices, leases and housekeeping.

    def _on_notice(self, job_id: str, phase: str, kind: str) -> None:
        if not job_id:
            self._look()
            for running_id in self._running:
                self._look_again(running_id)
            return
        running = self._running.get(job_id)
        if running is None:
            if phase in (ExecutionPhase.QUEUED, "RELEASED"):
                self._look(kind)
        elif phase in (ExecutionPhase.ABORTED, "DELETED"):
            self._drop(running)
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
        running = self._running.get(job_id)
        if running is None:
            return
        if job is None or job.phase is ExecutionPhase.ABORTED:
            self._drop(running)
        elif running.timer is not None and not running.timer.expired():
            remaining = _remaining(job)
            loop = asyncio.get_running_loop()
            running.timer.reschedule(None if remaining is None else loop.time() + remaining)

    @staticmethod
    def _drop(running: _Running) -> None:
        running.stop = True
        running.task.cancel()

    async def _heartbeat_loop(self) -> None:
        loop = asyncio.get_running_loop()
        renewed = loop.time()
        while True:
            await asyncio.sleep(self._lease / 3)
            if not self._running:
                renewed = loop.time()
                continue
            ids = list(self._running)
            try:
                ours = await self._store.renew(self.worker, ids, self._lease)
                renewed = loop.time()
            except DATABASE_ERRORS as error:
                logger.warning("cannot renew the leases of %d jobs: %s", len(ids), error)
                if loop.time() - renewed < self._lease:
                    continue
                ours = set()
            for job_id in set(ids) - ours:
                if running := self._running.get(job_id):
                    self._drop(running)

    async def _housekeeping_loop(self) -> None:
        while True:
            try:
                await self._store.end_overdue("the execution duration is exceeded")
                while await self._store.destroy_expired():
                    pass
                while await self._store.drop_anonymous(self._anonymous_jobs):
                    pass
            except DATABASE_ERRORS as error:
                logger.warning("cannot clean up jobs: %s", error)
            await asyncio.sleep(self._housekeeping)


def _remaining(job: Job) -> float | None:
    """Seconds left of the execution duration, None without limit."""
    if job.execution_duration <= 0:
        return None
    used = (now() - job.start_time).total_seconds() if job.start_time else 0.0
    return max(0.0, job.execution_duration - used)


def _internal_fault(job: Job, detail: str) -> Outcome:
    return Outcome(ExecutionPhase.ERROR, job.results, ErrorSummary(f"InternalFault: {detail}"))
