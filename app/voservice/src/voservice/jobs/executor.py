"""The loops of a process that works on jobs: it claims as many as it has slots, and renews their leases.

Whatever becomes of one job, or of the database for a while, the loops go on. A job may be started again at any point,
by another process, after this one has stalled or died.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Never, Protocol, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from voservice.jobs.leases import LeaseLost

Id = TypeVar("Id")
Job = TypeVar("Job")

DATABASE_ERRORS = (SQLAlchemyError, OSError)
PATIENCE = 10.0
"""Seconds for work to stop in, of which a service has 20 or more."""
logger = logging.getLogger(__name__)


class Queue(Protocol[Id, Job]):
    """Jobs of one table, and the work on one of them."""

    async def claim(self, worker: str, lease: float, limit: int, running: Collection[Id]) -> Mapping[Id, Job]:
        """Lease up to *limit* jobs for *lease* seconds, none of those *running* here; return them by their ids."""

    async def renew(self, worker: str, lease: float, jobs: Collection[Id]) -> Collection[Id]:
        """Renew leases, also of no job at all; return the ids of those that the worker still has."""

    async def release(self, worker: str, job: Id) -> None:
        """Give a job back, if the worker still has it."""

    async def work(self, job: Job) -> None:
        """Work on a job to its end. What is raised leaves it to whoever claims it once its lease has run out."""


@dataclass(slots=True)
class Held:
    """A job that this process has leased: the task that works on it, and the end of its lease by the loop's clock."""

    task: asyncio.Task[Any]
    expires: float
    in_slot: bool = True
    ended: bool = False


class Executor(Generic[Id, Job]):
    """Works on the jobs of a queue, so many at a time.

    `running` holds what it works on, by id; set `wake` to have it look for jobs now.
    """

    def __init__(
        self,
        queue: Queue[Id, Job],
        worker: str,
        slots: int,
        *,
        lease: float,
        poll: float | None = None,
        beat: float | None = None,
        patience: float = PATIENCE,
    ) -> None:
        """Work as *worker* on at most *slots* jobs at a time, leased for *lease* seconds.

        Jobs are looked for every *poll* and leases renewed every *beat* seconds, by default a third of a lease. Work
        that is to stop is waited for *patience* seconds.
        """
        self.worker = worker
        self.running: dict[Id, Held] = {}
        self.wake = asyncio.Event()
        self._queue = queue
        self._slots = slots
        self._lease = lease
        self._poll = lease / 3 if poll is None else poll
        self._beat = lease / 3 if beat is None else beat
        self._patience = patience
        self._stopping = False
        self._paused = False

    async def run(self) -> None:
        """Work until `stop`, then give the unfinished jobs back. Cancelled, it gives nothing back."""
        async with asyncio.TaskGroup() as group:
            renewing = group.create_task(self._renew_loop())
            await self._claim_loop()
            # A task that is cancelled before its first step takes none, and so gives nothing back.
            await asyncio.sleep(0)
            await self._stop_all()
            renewing.cancel()

    def stop(self) -> None:
        """Make `run` return as soon as what it works on has stopped, or does not within its patience."""
        self._stopping = True
        self.wake.set()

    def pause(self, paused: bool) -> None:
        """Begin no further job while paused; what runs goes on."""
        self._paused = paused
        self.wake.set()

    def drop(self, job: Id) -> None:
        """Stop working on a job, if it is worked on here: somebody else has ended it."""
        if (held := self.running.get(job)) is not None:
            held.task.cancel()

    def ended(self, job: Id) -> None:
        """Note that a job has ended: its lease is not missed, and what follows its end is not interrupted."""
        self.running[job].ended = True

    @contextmanager
    def keeping(self, job: Id) -> Iterator[None]:
        """Renew the lease of a job that the caller works on, in no slot; without it the caller is cancelled."""
        task = asyncio.current_task()
        assert task is not None
        self.running[job] = Held(task, self._in_a_lease(), in_slot=False)
        try:
            yield
        finally:
            self.running.pop(job, None)

    def _in_a_lease(self) -> float:
        return asyncio.get_running_loop().time() + self._lease

    async def _claim_loop(self) -> None:
        while not self._stopping:
            self.wake.clear()
            try:
                await self._claim()
            except DATABASE_ERRORS as error:
                logger.warning("Cannot look for jobs", extra={"fields": {"error": type(error).__name__}})
            except Exception:
                logger.exception("Cannot look for jobs")
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll):
                    await self.wake.wait()

    async def _claim(self) -> None:
        free = self._slots - sum(held.in_slot for held in self.running.values())
        if self._paused or free <= 0:
            return
        expires = self._in_a_lease()
        # A lease that ran out while this process was stalled is renewed, unless another claims the job first.
        running = tuple(self.running)
        async with asyncio.timeout(self._lease):
            claimed = await self._queue.claim(self.worker, self._lease, free, running)
        for key, job in claimed.items():
            task = asyncio.create_task(self._work(key, job), name=f"job {key}")
            self.running[key] = Held(task, expires)
            task.add_done_callback(partial(self._forget, key))

    def _forget(self, key: Id, _task: asyncio.Task[None]) -> None:
        self.running.pop(key, None)
        self.wake.set()

    async def _work(self, key: Id, job: Job) -> None:
        told = {"fields": {"job": str(key)}}
        try:
            await self._queue.work(job)
        except LeaseLost:
            logger.info("The job is another's", extra=told)
        except asyncio.CancelledError:
            logger.info("The job was stopped", extra=told)
            # Nothing happens to one that was ended, or claimed by another. What cannot be released runs out.
            with suppress(*DATABASE_ERRORS):
                async with asyncio.timeout(self._lease / 3):
                    await self._queue.release(self.worker, key)
        except DATABASE_ERRORS:
            # The lease runs out, and whoever sees the database first goes on.
            logger.warning("The job lost the database", exc_info=True, extra=told)
        except Exception:
            # Likewise; one that always fails has so many attempts.
            logger.exception("The job failed unexpectedly", extra=told)

    async def _stop_all(self) -> None:
        """Cancel what is worked on, again as long as it goes on; what follows the end of a job only in the end."""
        loop, step = asyncio.get_running_loop(), self._lease / 3
        deadline = loop.time() + self._patience
        over = False
        while self.running and not over:
            over = loop.time() >= deadline
            for held in self.running.values():
                if over or not held.ended:
                    held.task.cancel()
            await asyncio.wait([held.task for held in self.running.values()], timeout=step)
        if self.running:
            jobs = [str(key) for key in self.running]
            logger.error("Work on jobs does not stop", extra={"fields": {"jobs": jobs}})

    async def _renew_loop(self) -> Never:
        while True:
            asked = {key: held for key, held in self.running.items() if not held.ended}
            renewed = await self._renew(asked)
            await asyncio.sleep(self._beat if renewed else min(self._beat, self._lease / 10))

    async def _renew(self, asked: Mapping[Id, Held]) -> bool:
        """Renew leases, and stop what was claimed by others, or may have been; return whether the queue answered."""
        expires, renewed = self._in_a_lease(), True
        try:
            async with asyncio.timeout(self._lease / 3):
                ours = await self._queue.renew(self.worker, self._lease, list(asked))
        except Exception as error:
            if not isinstance(error, DATABASE_ERRORS):
                logger.exception("Cannot renew leases")
            told = {"error": type(error).__name__, "jobs": len(asked)}
            logger.warning("Cannot renew leases", extra={"fields": told})
            now, renewed = asyncio.get_running_loop().time(), False
            ours = [key for key, held in asked.items() if held.expires > now]
        else:
            for key in ours:
                asked[key].expires = expires
        for key, held in asked.items():
            # What ended meanwhile, or ended and was claimed again, is no loss.
            if key not in ours and not held.ended and self.running.get(key) is held:
                logger.warning("The lease of a job is lost", extra={"fields": {"job": str(key)}})
                held.task.cancel()
        return renewed


async def repeat(step: Callable[[], Awaitable[object]], seconds: float) -> Never:
    """Do something again and again, so many seconds after its end, whether it succeeds or not."""
    while True:
        try:
            await step()
        except DATABASE_ERRORS as error:
            logger.warning("The database does not answer", extra={"fields": {"error": type(error).__name__}})
        except Exception:
            logger.exception("A step failed, and is repeated")
        await asyncio.sleep(seconds)
