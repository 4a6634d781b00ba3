"""The runner: claims tasks in the ledger, stages them concurrently, and renews their leases.

It looks for tasks when a message arrives, when a task ends, and every few seconds in any case, so that neither a lost
message nor a dead worker leaves a task behind. A task whose lease has expired may be claimed by another worker.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

import aiohttp
from sqlalchemy.exc import DBAPIError
from voservice.logging import bound

from preparer.config import PreparerSettings
from preparer.ledger import File, FileState, Ledger, Task
from preparer.ledger.credentials import CredentialLost, Vault
from preparer.staging import callbacks, metrics, receipts
from preparer.staging.approach import Approach, Job, Removal, StagingError
from preparer.staging.retry import delay
from preparer.worker import heartbeat

logger = logging.getLogger(__name__)

PAGE = 5000
# Seconds after which the worker that ended a task has either written its receipt or died.
RECEIPT_DELAY = 30
# Seconds between attempts to end orphaned bulk jobs, and for how long that is tried: it needs the user's token.
ABANDON_DELAY = 10
ABANDON_LIMIT = timedelta(days=1)


class Runner:
    """Stages tasks until it is told to stop."""

    def __init__(
        self,
        settings: PreparerSettings,
        ledger: Ledger,
        vault: Vault,
        approaches: dict[str, Approach],
        session: aiohttp.ClientSession,
    ) -> None:
        """Stage by *approaches*, keyed by name."""
        self.settings = settings
        self.ledger = ledger
        self.vault = vault
        self.approaches = approaches
        self.session = session
        self.name = settings.preparer_worker_name
        self.jobs: dict[uuid.UUID, Job] = {}
        self.running: dict[uuid.UUID, asyncio.Task[None]] = {}
        self.closing: set[uuid.UUID] = set()
        self.wake = asyncio.Event()
        self.stopping = asyncio.Event()

    async def run(self) -> None:
        """Work until `stop`, then give the unfinished tasks back for others to resume."""
        async with asyncio.TaskGroup() as group:
            loops = [
                group.create_task(self._forever(self._claim_loop)),
                group.create_task(self._forever(self._heartbeat_loop)),
                group.create_task(self._forever(self._callbacks_loop)),
                group.create_task(self._forever(self._lifetimes_loop)),
                group.create_task(self._forever(self._receipts_loop)),
                group.create_task(self._forever(self._orphans_loop)),
            ]
            await self.stopping.wait()
            for loop in loops:
                loop.cancel()
        held = dict(self.running)
        for task, running in held.items():
            if task not in self.closing:
                running.cancel()
        await asyncio.gather(*held.values(), return_exceptions=True)
        for task in held:
            await self.ledger.give_back(task, self.name)

    def stop(self) -> None:
        """Make `run` return."""
        self.stopping.set()

    async def _forever(self, loop: Callable[[], Awaitable[None]]) -> None:
        """Restart a loop whatever ended it: a live worker must never stop looking for work."""
        while True:
            try:
                await loop()
            except (DBAPIError, OSError) as exc:
                logger.warning("The ledger is unavailable", extra={"fields": {"error": type(exc).__name__}})
            except Exception:
                logger.exception("A loop of the worker failed, and is restarted")
            await asyncio.sleep(1)

    async def _claim_loop(self) -> None:
        settings = self.settings
        while True:
            self.wake.clear()
            while len(self.running) < settings.preparer_site_tasks:
                task = await self.ledger.claim(
                    self.name,
                    settings.preparer_lease,
                    settings.preparer_user_tasks,
                    settings.preparer_site_tasks,
                    settings.preparer_task_attempts,
                )
                if task is None:
                    break
                self.running[task.id] = asyncio.create_task(self._work(task))
            try:
                async with asyncio.timeout(settings.preparer_poll):
                    await self.wake.wait()
            except TimeoutError:
                continue

    async def _heartbeat_loop(self) -> None:
        """Renew leases, cancel tasks on request, and drop those that another worker has claimed."""
        while True:
            # A snapshot: what is claimed or closed meanwhile is not in the result.
            asked = dict(self.jobs)
            held = await self.ledger.renew(self.name, self.settings.preparer_lease, list(asked))
            for task, job in asked.items():
                if self.jobs.get(task) is not job:
                    continue
                if task not in held:
                    logger.warning("Another worker holds the task", extra={"fields": {"task": str(task)}})
                    self.running[task].cancel()
                elif held[task]:
                    job.cancelled.set()
            await asyncio.to_thread(heartbeat.beat)
            await asyncio.sleep(min(1.0, self.settings.preparer_lease / 5))

    async def _work(self, task: Task) -> None:
        metrics.RUNNING.inc()
        try:
            with bound(task=str(task.id), user=task.username):
                await self._stage(task)
        except (DBAPIError, OSError) as exc:
            # The lease expires, and the next worker claims the task.
            logger.warning(
                "Lost the ledger", extra={"fields": {"task": str(task.id), "error": type(exc).__name__}}
            )
        except Exception:
            # Likewise: it is claimed again after the lease, and LOST after too many attempts.
            logger.exception("Unexpected failure of a task", extra={"fields": {"task": str(task.id)}})
        finally:
            self.running.pop(task.id, None)
            self.jobs.pop(task.id, None)
            self.closing.discard(task.id)
            metrics.RUNNING.dec()
            self.wake.set()

    async def _stage(self, task: Task) -> None:
        metrics.WAIT_SECONDS.observe((datetime.now(UTC) - task.created).total_seconds())
        logger.info("Task claimed", extra={"fields": {"files": task.files, "attempt": task.attempts}})

        approach = self.approaches.get(task.approach)
        if approach is None:
            await self.ledger.fail(
                task.id, self.name, "InvalidArgument", f"approach {task.approach} is not configured"
            )
            await self._close(task)
            return
        try:
            token = self.vault.decrypt(task.credential)
        except CredentialLost as exc:
            await self.ledger.fail(task.id, self.name, "NotAuthenticated", str(exc))
            await self._close(task)
            return
        job = Job(task, token, self.ledger, bulk=task.job, event=task.job_event)
        self.jobs[task.id] = job
        if task.cancel:
            job.cancelled.set()
        await self._rounds(approach, job)
        await self._close(task)

    async def _rounds(self, approach: Approach, job: Job) -> None:
        """Stage pending files in batches until none is left or the task as a whole fails."""
        policy = job.retry_policy(self.settings)
        # Consecutive rounds without success, and the `Retry-After` of the last one.
        failures, asked = 0, None
        admitted = False
        tried: set[int] = set()
        while not job.cancelled.is_set():
            pending = await self.ledger.list_files(
                job.task.id, [FileState.PENDING], limit=self.settings.preparer_batch
            )
            if not pending:
                return
            if pending[0].number in tried:
                # Files of the last batch are pending again: the more attempts, the longer the wait.
                attempt = max(failures, *(file.attempts for file in pending))
                if not await policy.pause(delay(self.settings, attempt, asked)):
                    return
            tried = {file.number for file in pending}
            try:
                # What was started goes on, and is not checked against the quota.
                if await approach.resume(job, pending):
                    continue
                if not admitted:
                    await approach.admit(job, self._pages(job.task, [FileState.PENDING]))
                    admitted = True
                await approach.stage(job, pending)
                failures, asked = failures + 1 if job.away else 0, None
            except StagingError as exc:
                if job.cancelled.is_set():
                    # Whatever interrupted it: pending files are cancelled with the task.
                    return
                failures, asked = failures + 1, exc.retry_after
                if not exc.transient or policy.exhausted(exc.away, exc.detail):
                    logger.warning("Task fails", extra={"fields": {"fault": exc.fault, "detail": exc.detail}})
                    await self.ledger.fail(job.task.id, self.name, exc.fault, exc.detail)
                    return
                logger.info("Task is retried", extra={"fields": {"fault": exc.fault, "detail": exc.detail}})

    async def _close(self, task: Task) -> None:
        """End a task and write its receipt."""
        # From here on the renewal of leases must not take the ended task for a lost one.
        self.jobs.pop(task.id, None)
        self.closing.add(task.id)
        closed = await self.ledger.finish(task.id, self.name)
        if closed is None:
            return
        assert closed.started is not None
        assert closed.finished is not None
        metrics.TASK_SECONDS.observe((closed.finished - closed.started).total_seconds())
        logger.info("Task ended", extra={"fields": {"state": closed.state, "info": closed.info}})
        await self._receipt(closed)

    async def _receipt(self, task: Task) -> None:
        try:
            await receipts.write(self.settings.abs_path_celery_results, task, self._pages(task))
        except OSError as exc:
            logger.error(
                "Cannot write the receipt", extra={"fields": {"task": str(task.id), "error": str(exc)}}
            )
            return
        await self.ledger.note_receipt(task.id)

    async def _pages(
        self, task: Task, states: Sequence[FileState] | None = None
    ) -> AsyncIterator[Sequence[File]]:
        after = -1
        while page := await self.ledger.list_files(task.id, states, after, PAGE):
            yield page
            if len(page) < PAGE:
                return
            after = page[-1].number

    async def _callbacks_loop(self) -> None:
        while True:
            # Concurrently: a host that does not answer must not delay the others.
            await asyncio.gather(*map(self._call_back, await self.ledger.due_callbacks()))
            await asyncio.sleep(1)

    async def _lifetimes_loop(self) -> None:
        """Remove expired copies; in a loop of its own, since that may take long."""
        while True:
            for task in await self.ledger.expired():
                await self._release(task)
            await asyncio.sleep(1)

    async def _receipts_loop(self) -> None:
        """Write missing receipts: of workers that died before writing one, and of tasks that ended without a worker."""
        while True:
            for task in await self.ledger.without_receipt(timedelta(seconds=RECEIPT_DELAY)):
                await self._receipt(task)
            await asyncio.sleep(max(1, RECEIPT_DELAY))

    async def _orphans_loop(self) -> None:
        """End orphaned bulk jobs at Cavern, so that nothing is staged for ended tasks."""
        while True:
            await asyncio.gather(*map(self._abandon, await self.ledger.orphaned()))
            await asyncio.sleep(ABANDON_DELAY)

    async def _abandon(self, task: Task) -> None:
        # Guaranteed by the query.
        assert task.job is not None
        assert task.finished is not None
        approach = self.approaches.get(task.approach)
        try:
            token = self.vault.decrypt(task.credential)
        except CredentialLost as exc:
            _log_orphan(task, str(exc))
        else:
            if approach is not None and not await approach.abandon(task.job, token):
                if datetime.now(UTC) - task.finished < ABANDON_LIMIT:
                    return
                _log_orphan(task, "Cavern is unavailable")
        await self.ledger.forget_job(task.id, task.job)

    async def _call_back(self, task: Task) -> None:
        key = self.settings.preparer_callback_key.get_secret_value()
        status, final = await callbacks.send(self.session, task, key, self.settings.preparer_callback_hosts)
        await self.ledger.called_back(task.id, status, final)

    async def _release(self, task: Task) -> None:
        """Remove the staged copies of an expired task."""
        approach = self.approaches.get(task.approach)
        try:
            token = self.vault.decrypt(task.credential)
        except CredentialLost as exc:
            logger.error(
                "Staged copies cannot be removed",
                extra={"fields": {"task": str(task.id), "error": str(exc)}},
            )
            await self.ledger.release(task.id, [], complete=True)
            return
        later = False
        async for page in self._pages(task, [FileState.STAGED]):
            removal = await approach.remove(task, token, page) if approach else Removal()
            await self.ledger.release(task.id, removal.gone, complete=False)
            later = later or bool(removal.later)
        if not later:
            await self.ledger.release(task.id, [], complete=True)
            logger.info("Staged copies removed", extra={"fields": {"task": str(task.id)}})


def _log_orphan(task: Task, error: str) -> None:
    fields = {"task": str(task.id), "job": task.job, "error": error}
    logger.error("Cannot end the bulk job of an ended task", extra={"fields": fields})
