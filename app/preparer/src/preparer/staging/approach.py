"""Base of the approaches: the interface, the task in a worker's hands, and retries of single files."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from vospace_client.errors import Service, TransferError
from vospace_client.terms import ON_TAPE

from preparer.config import PreparerSettings
from preparer.ledger import GOOD, File, FileState, Ledger, Outcome, Task
from preparer.staging import metrics
from preparer.staging.retry import RetryPolicy, delay

LONGEST_TAPE_DELAY = 600.0
"""Seconds after which a storage element is asked again for files on tape, whatever it asks for."""
logger = logging.getLogger("preparer.staging")


class StagingError(Exception):
    """Staging of the whole task failed. `fault` is the kind of failure, as for files.

    With `transient`, a retry may succeed; `away` is the service that must be available for it.
    """

    def __init__(
        self,
        fault: str,
        detail: str,
        *,
        transient: bool = False,
        away: Service = "Cavern",
        retry_after: float | None = None,
    ) -> None:
        """Record the failure; *retry_after* is the earliest time for a retry, in seconds from now."""
        super().__init__(detail)
        self.fault = fault
        self.detail = detail
        self.transient = transient
        self.away = away
        self.retry_after = retry_after

    @classmethod
    def of(cls, error: TransferError) -> StagingError:
        """Convert the failure of a transfer into that of the whole task."""
        return cls(
            error.fault,
            error.detail,
            transient=error.transient,
            away=error.away or "Cavern",
            retry_after=error.retry_after,
        )


@dataclass
class Job:
    """A claimed task, and what its worker writes to the ledger about it.

    `bulk` is the URL of the task's bulk job and `event` the last of its events that was processed; `away` maps services
    to the time (monotonic seconds) since which they have not answered.
    """

    task: Task
    token: str
    ledger: Ledger
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    bulk: str | None = None
    event: int = 0
    away: dict[Service, float] = field(default_factory=dict)

    def retry_policy(self, settings: PreparerSettings) -> RetryPolicy:
        """Return the policy by which this task waits."""
        return RetryPolicy(settings, self.cancelled, self.away)

    async def hold(self, bulk: str | None, event: int = 0) -> None:
        """Note the task's bulk job, or that it has none, here and for a worker that takes the task over."""
        self.bulk, self.event = bulk, event
        await self.ledger.job(self.task.id, str(self.task.worker), bulk, event)

    def begin(self, source: str, file: File) -> None:
        """Log that the transfer of a file begins, in the words of the deployment's specification, as `end` does."""
        logger.info("Staging file from %s to %s", source, file.target)

    async def retried(self, failures: Sequence[Outcome]) -> None:
        """Record tries that failed and will be made again."""
        await self.ledger.tried(self.task.id, failures)
        for failure in failures:
            metrics.RETRIES.labels(failure.fault or "").inc()

    async def wait_for_tape(
        self, settings: PreparerSettings, waiting: Sequence[tuple[File, Outcome, float | None]]
    ) -> None:
        """Note that files are on their way from tape, or that they failed where that has taken too long.

        Each has the seconds after which its RSE asks to be asked again, if it does.
        """
        now = datetime.now(UTC)
        over: list[tuple[File, Outcome]] = []
        later: list[tuple[Outcome, float]] = []
        for file, outcome, asked in waiting:
            waited = (now - (file.tape_since or now)).total_seconds()
            if waited >= settings.preparer_tape_wait:
                over.append((file, outcome))
            else:
                delay = settings.preparer_tape_delay if asked is None else asked
                delay = min(max(delay, settings.preparer_retry_delay), LONGEST_TAPE_DELAY)
                later.append((outcome, delay))
        await self.end(over)
        await self.ledger.waiting(self.task.id, later)

    async def end(self, results: Sequence[tuple[File, Outcome]]) -> None:
        """Record the outcome of files, then log it."""
        await self.ledger.record(self.task.id, [outcome for _, outcome in results])
        for file, outcome in results:
            metrics.FILES.labels(str(outcome.state), outcome.fault or "").inc()
            if outcome.state in GOOD:
                metrics.BYTES.inc(outcome.bytes or 0)
                logger.info(
                    "Successfully staged file %s: %s, %s bytes", file.target, outcome.state, outcome.bytes
                )
            elif outcome.state == FileState.FAILED:
                logger.warning(
                    "Failed to stage file",
                    extra={
                        "fields": {"target": file.target, "fault": outcome.fault, "detail": outcome.detail}
                    },
                )


@dataclass
class Removal:
    """Result of removing staged copies: numbers of files that are gone, and of those to be removed later.

    Files in neither list were changed by the user, and stay.
    """

    gone: list[int] = field(default_factory=list)
    later: list[int] = field(default_factory=list)


async def side_by_side(
    files: Sequence[File], concurrency: int, one: Callable[[File], Awaitable[None]]
) -> None:
    """Call *one* for every file, at most *concurrency* at a time; the first error cancels the rest and is raised."""
    limit = asyncio.Semaphore(concurrency)

    async def limited(file: File) -> None:
        async with limit:
            await one(file)

    try:
        async with asyncio.TaskGroup() as group:
            for file in files:
                group.create_task(limited(file))
    except BaseExceptionGroup as errors:
        # All have one cause, an unavailable ledger or service, and none is a file's own.
        raise errors.exceptions[0] from errors


async def until_final(
    job: Job, file: File, settings: PreparerSettings, once: Callable[[], Awaitable[Outcome]]
) -> None:
    """Call *once* until the file has a final outcome, and record that, unless the task is cancelled meanwhile.

    *once* raises `TransferError`. A permanent failure is final at once, a transient one after a number of attempts. An
    unavailable service is waited for, which costs no attempt. Raises `StagingError` where that lasts for too long.
    """
    policy = job.retry_policy(settings)
    tries, waits = file.attempts, 0
    while not job.cancelled.is_set():
        try:
            outcome = await once()
        except TransferError as exc:
            if job.cancelled.is_set():
                # Whatever interrupted it: the file is cancelled with its task.
                return
            if exc.fault == ON_TAPE:
                outcome = Outcome(file.number, FileState.FAILED, fault=exc.fault, detail=exc.detail)
                # It stays pending, and others have its turn: the task comes back to it.
                await job.wait_for_tape(settings, [(file, outcome, exc.retry_after)])
                return
            if exc.away is not None:
                waits += 1
                if not await policy.outlast(exc, waits) and not job.cancelled.is_set():
                    raise StagingError.of(exc) from exc
                continue
            tries, waits = tries + 1, 0
            outcome = Outcome(file.number, FileState.FAILED, fault=exc.fault, detail=exc.detail)
            if exc.transient and tries < settings.preparer_file_attempts:
                await job.retried([outcome])
                await policy.pause(delay(settings, tries, exc.retry_after))
                continue
        except StagingError:
            raise
        except Exception as exc:  # must not fail the other files
            logger.exception("Unexpected failure of a file", extra={"fields": {"target": file.target}})
            outcome = Outcome(file.number, FileState.FAILED, fault="InternalFault", detail=type(exc).__name__)
        if outcome.state == FileState.PRESENT:
            policy.answered("Cavern")
        else:
            policy.answered()
        await job.end([(file, outcome)])
        return


class Approach(ABC):
    """A way to stage files. The ledger knows what is pending; an approach records each file once it is final."""

    @abstractmethod
    async def stage(self, job: Job, files: Sequence[File]) -> None:
        """Bring every file to a final state, or raise `StagingError`; return soon after cancellation."""

    @abstractmethod
    async def remove(self, task: Task, token: str, files: Sequence[File]) -> Removal:
        """Remove staged copies that the user has not changed."""

    async def admit(self, job: Job, pages: AsyncIterator[Sequence[File]]) -> None:
        """Raise `StagingError` if the pending files of the task cannot all be staged, before any is."""
        return

    async def resume(self, job: Job, files: Sequence[File]) -> bool:
        """Resume what this or another worker began for *files*; False if there is nothing to resume."""
        return False

    async def abandon(self, bulk: str, token: str) -> bool:
        """End the orphaned bulk job of an ended task; False if that must be tried again."""
        return True
