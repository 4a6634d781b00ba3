"""The runner: stages the tasks that this worker has claimed, and looks after those that have ended.

It looks for tasks when a message arrives, when a task ends, and every few seconds in any case, so that neither a lost
message nor a dead worker leaves a task behind.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime, timedelta
from functools import partial

from voservice import tracing
from voservice.jobs import Executor, repeat
from voservice.logging import bound

from preparer.ledger import FileState, Task
from preparer.ledger.credentials import CredentialLost
from preparer.staging import metrics
from preparer.staging.approach import Approach, Job, StagingError
from preparer.staging.retry import delay
from preparer.worker import heartbeat
from preparer.worker.aftercare import Aftercare, pages

logger = logging.getLogger(__name__)


class Runner:
    """Stages tasks until it is told to stop."""

    def __init__(self, aftercare: Aftercare) -> None:
        """Stage the tasks of the ledger that *aftercare* is for, by the same approaches."""
        self.aftercare = aftercare
        self.settings = settings = aftercare.settings
        self.ledger = aftercare.ledger
        self.vault = aftercare.vault
        self.approaches = aftercare.approaches
        self.name = settings.preparer_worker_name
        self.jobs: dict[uuid.UUID, Job] = {}
        self.executor = Executor(
            self,
            self.name,
            settings.preparer_site_tasks,
            lease=settings.preparer_lease,
            poll=settings.preparer_poll,
            # That often tasks hear that they are to be cancelled.
            beat=min(1.0, settings.preparer_lease / 5),
        )
        self.wake = self.executor.wake

    async def run(self) -> None:
        """Work until `stop`, then give the unfinished tasks back for others to resume."""
        async with asyncio.TaskGroup() as group:
            loops = [group.create_task(repeat(*step)) for step in self.aftercare.steps()]
            await self.executor.run()
            for loop in loops:
                loop.cancel()

    def stop(self) -> None:
        """Make `run` return."""
        self.executor.stop()

    # What the executor asks for.

    async def claim(
        self, worker: str, lease: float, limit: int, running: Collection[uuid.UUID]
    ) -> dict[uuid.UUID, Task]:
        """Lease tasks, within the limits of their users and of the site."""
        settings = self.settings
        claimed = await self.ledger.claim(
            worker, lease, limit, settings.preparer_user_tasks, settings.preparer_site_tasks, running
        )
        return {task.id: task for task in claimed}

    async def renew(self, worker: str, lease: float, jobs: Collection[uuid.UUID]) -> Collection[uuid.UUID]:
        """Renew leases, and tell tasks that are to be cancelled; a sign of life for the health check."""
        held = await self.ledger.renew(worker, lease, jobs)
        for task, cancel in held.items():
            if cancel and task in self.jobs:
                self.jobs[task].cancelled.set()
        # Here: a thread may be long in coming, and the file is in memory.
        heartbeat.beat()
        return held

    async def release(self, worker: str, job: uuid.UUID) -> None:
        """Give a task back."""
        await self.ledger.release(worker, job)

    async def work(self, job: Task) -> None:
        """Stage a task and end it. After too many attempts it is LOST, since it may be what kills the workers."""
        attempts = self.settings.preparer_task_attempts
        attributes: tracing.Attributes = {
            "task": str(job.id),
            "approach": job.approach,
            "files": job.files,
            "attempt": job.attempts,
        }
        with (
            bound(task=str(job.id), user=job.username),
            tracing.resumed("stage", job.trace, attributes, since=self._asked(job)) as span,
            metrics.RUNNING.track_inprogress(),
        ):
            try:
                if job.attempts > attempts:
                    info = f"Given up after {attempts} workers were lost over it"
                    await self._end(job, partial(self.ledger.lose, info=info), span)
                elif (until := await self._stage(job)) is not None:
                    await self._postpone(job, until)
                else:
                    await self._end(job, self.ledger.finish, span)
            finally:
                self.jobs.pop(job.id, None)

    # Staging.

    def _asked(self, task: Task) -> datetime | None:
        """Return since when a claimed task waited for a worker.

        None for one that was given back, and waited for what it needs.
        """
        given_back = task.started is not None and (
            datetime.now(UTC) - task.started >= timedelta(seconds=self.settings.preparer_lease)
        )
        return None if given_back else task.created

    async def _stage(self, task: Task) -> datetime | None:
        """Stage what is to be staged now; returns when the rest is, or None if nothing waits."""
        if (asked := self._asked(task)) is not None:
            metrics.WAIT_SECONDS.observe((datetime.now(UTC) - asked).total_seconds())
        logger.info("Task claimed", extra={"fields": {"files": task.files, "attempt": task.attempts}})

        approach = self.approaches.get(task.approach)
        if approach is None:
            await self.ledger.fail(
                task.id, self.name, "InvalidArgument", f"approach {task.approach} is not configured"
            )
            return None
        try:
            token = self.vault.decrypt(task.credential)
        except CredentialLost as exc:
            await self.ledger.fail(task.id, self.name, "NotAuthenticated", str(exc))
            return None
        job = Job(task, token, self.ledger, bulk=task.job, event=task.job_event)
        self.jobs[task.id] = job
        if task.cancel:
            job.cancelled.set()
        return await self._rounds(approach, job)

    async def _rounds(self, approach: Approach, job: Job) -> datetime | None:
        """Stage pending files in batches until none is left or the task as a whole fails.

        Returns when the first of those is due that wait for something else than a worker, or None.
        """
        policy = job.retry_policy(self.settings)
        # Consecutive rounds without success, and the `Retry-After` of the last one.
        failures, asked = 0, None
        admitted = False
        tried: set[int] = set()
        while not job.cancelled.is_set():
            pending = await self.ledger.pending(job.task.id, self.settings.preparer_batch)
            if not pending:
                return await self.ledger.next_due(job.task.id)
            if pending[0].number in tried:
                # Files of the last batch are pending again: the more attempts, the longer the wait.
                attempt = max(failures, *(file.attempts for file in pending))
                if not await policy.pause(delay(self.settings, attempt, asked)):
                    return None
            tried = {file.number for file in pending}
            try:
                # What was started goes on, and is not checked against the quota, as are files that waited since then.
                if await approach.resume(job, pending):
                    continue
                if not admitted and not any(file.tape_since for file in pending):
                    await approach.admit(job, pages(self.ledger, job.task, [FileState.PENDING]))
                    admitted = True
                await approach.stage(job, pending)
                failures, asked = failures + 1 if job.away else 0, None
            except StagingError as exc:
                if job.cancelled.is_set():
                    # Whatever interrupted it: pending files are cancelled with the task.
                    return None
                failures, asked = failures + 1, exc.retry_after
                if not exc.transient or policy.exhausted(exc.away, exc.detail):
                    logger.warning("Task fails", extra={"fields": {"fault": exc.fault, "detail": exc.detail}})
                    await self.ledger.fail(job.task.id, self.name, exc.fault, exc.detail)
                    return None
                logger.info("Task is retried", extra={"fields": {"fault": exc.fault, "detail": exc.detail}})
        return None

    async def _postpone(self, task: Task, until: datetime) -> None:
        """Give a task back that waits for files on tape alone, so that others have its slot."""
        self.executor.ended(task.id)
        await self.ledger.postpone(self.name, task.id, until, "Waiting for files on tape")
        logger.info("Task waits for files on tape", extra={"fields": {"until": until.isoformat()}})

    async def _end(
        self, task: Task, end: Callable[[uuid.UUID, str], Awaitable[Task | None]], span: tracing.Span
    ) -> None:
        """End a task and write its receipt."""
        self.executor.ended(task.id)
        ended = await end(task.id, self.name)
        if ended is None:
            return
        assert ended.started is not None
        assert ended.finished is not None
        span.set("state", ended.state)
        metrics.TASK_SECONDS.observe((ended.finished - ended.started).total_seconds())
        logger.info("Task ended", extra={"fields": {"state": ended.state, "info": ended.info}})
        await self.aftercare.receipt(ended)
