"""Staging by bulk jobs at Cavern: one job fetches many files.

The job's URL is in the ledger before the job starts. Whatever happens to this worker, to Cavern or to the network, the
job is resumed, or ended before another starts, so that a task never has two.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from vospace_client.client import Cavern, CavernError, JobVanished, PullNotImplemented, Row
from vospace_client.errors import wait_told
from vospace_client.terms import ON_TAPE, STARTABLE_PHASES, UNFINISHED_PHASES

from preparer.config import PreparerSettings
from preparer.ledger import File, FileState, Outcome
from preparer.staging.approach import Job, StagingError, logger
from preparer.staging.retry import RetryPolicy, delay

CANCEL_SECONDS = 10.0
"""Seconds for which a cancelled task waits for an unavailable Cavern, to end the job before the task ends."""

MISSING_RESULT = "Cavern's job ended without a word about this file"

_STATES = {"COMPLETED": FileState.STAGED, "SKIPPED": FileState.PRESENT, "ERROR": FileState.FAILED}


class BulkPull:
    """Creates bulk jobs, follows and ends them."""

    def __init__(
        self,
        settings: PreparerSettings,
        cavern: Cavern,
        row: Callable[[File], Row],
        rse: Callable[[str | None], str | None],
    ) -> None:
        """Use *cavern*; *row* returns the row of a job for a file, and *rse* the name of the RSE that has a URL."""
        self.settings = settings
        self.cavern = cavern
        self.row = row
        self.rse = rse

    async def stage(self, job: Job, url: str, files: Sequence[File]) -> Sequence[File]:
        """Stage by jobs of the bulk pull at *url*; returns the files left over where Cavern no longer has a bulk pull.

        A file that is not final afterwards stays pending. Raises `CavernError`, upon which the job stays recorded
        unless it has vanished, and `StagingError` if the RSE stays unavailable.
        """
        for start in range(0, len(files), self.settings.preparer_batch):
            if job.cancelled.is_set():
                return []
            part = files[start : start + self.settings.preparer_batch]
            rows = [self.row(file) for file in part]
            try:
                bulk = await self.cavern.create_bulk_pull(
                    url, rows, self.settings.preparer_file_concurrency, job.token
                )
            except PullNotImplemented:
                return files[start:]
            # Before it starts: a job of which the answer was lost never does.
            await job.hold(bulk)
            try:
                await self.cavern.run(bulk, job.token)
                for file, row in zip(part, rows, strict=True):
                    job.begin(row.source, file)
                missing = await self._follow(job, bulk, part)
            except JobVanished:
                await job.hold(None)
                raise
            await self._count_missing(job, [file for file in part if file.number in missing])
        return []

    async def resume(self, job: Job, files: Sequence[File]) -> bool:
        """Resume the recorded job, or end it where it cannot be resumed; False if there is none.

        Raises as `stage` does.
        """
        if job.bulk is None:
            return False
        bulk = job.bulk
        try:
            if await self.cavern.phase(bulk, job.token) in STARTABLE_PHASES:
                await self.cavern.run(bulk, job.token)
            await self._follow(job, bulk, files)
        except JobVanished:
            logger.warning("Cavern has lost a bulk job", extra={"fields": {"job": bulk}})
            await job.hold(None)
        except CavernError as exc:
            if exc.away or exc.fault == "NotAuthenticated" or job.cancelled.is_set():
                raise
            logger.warning(
                "Cannot resume a bulk job, which is ended", extra={"fields": {"job": bulk, "error": str(exc)}}
            )
            await self._end(job, bulk)
        return True

    async def _end(self, job: Job, bulk: str) -> None:
        """End a job that cannot be followed. Raises `CavernError` if that may be possible later."""
        try:
            await self.cavern.abort(bulk, job.token)
        except CavernError as exc:
            if exc.transient:
                raise
            logger.warning("Cannot end a bulk job", extra={"fields": {"job": bulk, "error": str(exc)}})
        await job.hold(None)

    async def _follow(self, job: Job, bulk: str, files: Sequence[File]) -> set[int]:
        """Process the results of a job until it ends; returns the numbers of files without a result."""
        try:
            async with asyncio.timeout(None) as limit:
                abort = asyncio.create_task(self._abort_when_cancelled(job, bulk, limit))
                try:
                    return await self._results(job, bulk, files)
                finally:
                    abort.cancel()
        except TimeoutError as exc:
            if not limit.expired():
                # Raised by the ledger.
                raise
            raise CavernError("Cancelled", "Cancelled while Cavern was away", transient=True) from exc

    async def _abort_when_cancelled(self, job: Job, bulk: str, limit: asyncio.Timeout) -> None:
        """Abort the job once the task is cancelled; stop waiting for it if Cavern stays unavailable."""
        await job.cancelled.wait()
        tries = 0
        try:
            async with asyncio.timeout(CANCEL_SECONDS):
                while True:
                    try:
                        await self.cavern.abort(bulk, job.token)
                    except CavernError as exc:
                        if not exc.transient:
                            logger.warning(
                                "Cannot end a bulk job", extra={"fields": {"job": bulk, "error": str(exc)}}
                            )
                            return
                        tries += 1
                        await asyncio.sleep(delay(self.settings, tries, exc.retry_after))
                    else:
                        return
        except TimeoutError:
            limit.reschedule(asyncio.get_running_loop().time())

    async def _results(self, job: Job, bulk: str, files: Sequence[File]) -> set[int]:
        # Cavern numbers rows within a job; the target identifies a file on both sides.
        by_target = {self.cavern.uri(file.target): file for file in files}
        missing = {file.number for file in files}
        policy = job.retry_policy(self.settings)
        given_up: StagingError | None = None
        failures = 0
        while True:
            try:
                stream = self.cavern.bulk_results(bulk, job.event, job.token)
                async with aclosing(_batches(stream)) as batches:
                    async for batch in batches:
                        failures = 0
                        policy.answered("Cavern")
                        results = [
                            (by_target[line["target"]], line) for line in batch if line["target"] in by_target
                        ]
                        missing.difference_update(file.number for file, _ in results)
                        given_up = await self._record(job, results, policy) or given_up
                        await job.hold(bulk, batch[-1]["event"])
                        if given_up:
                            # Results of files that are in place already still follow.
                            await self.cavern.abort(bulk, job.token)
                phase = await self.cavern.phase(bulk, job.token, wait=1)
            except JobVanished:
                raise
            except CavernError as exc:
                failures += 1
                await self._wait(job, exc, failures, policy)
                continue
            failures = 0
            policy.answered("Cavern")
            if phase not in UNFINISHED_PHASES:
                break
        await job.hold(None)
        if given_up:
            raise given_up
        return missing

    async def _wait(self, job: Job, exc: CavernError, failures: int, policy: RetryPolicy) -> None:
        """Wait before the next request about the job; raise *exc* if there is no point in one."""
        if job.cancelled.is_set():
            if failures > self.settings.preparer_file_attempts:
                raise exc
            await asyncio.sleep(delay(self.settings, failures, exc.retry_after))
        elif exc.away:
            if not await policy.outlast(exc, failures) and not job.cancelled.is_set():
                raise exc
        elif exc.transient and failures < self.settings.preparer_file_attempts:
            await policy.pause(delay(self.settings, failures, exc.retry_after))
        else:
            raise exc

    async def _record(
        self, job: Job, results: Sequence[tuple[File, dict[str, Any]]], policy: RetryPolicy
    ) -> StagingError | None:
        """Record results; returns the reason to give up if the RSE has been unavailable for too long."""
        ended: list[tuple[File, Outcome]] = []
        again: list[Outcome] = []
        tape: list[tuple[File, Outcome]] = []
        unavailable: Outcome | None = None
        for file, line in results:
            outcome = _outcome(file.number, line)
            if outcome is None:
                continue
            if outcome.state == FileState.STAGED:
                outcome = replace(outcome, rse=self.rse(line.get("source")))
            if outcome.state == FileState.FAILED and line.get("transient"):
                if outcome.fault == ON_TAPE:
                    tape.append((file, outcome))
                    continue
                if line.get("away") == "source":
                    # The file stays pending, and this costs it no attempt.
                    unavailable = outcome
                    continue
                if self._left(job, file):
                    again.append(outcome)
                    continue
            ended.append((file, outcome))
        await job.end(ended)
        await job.retried(again)
        if tape:
            waits = [(file, outcome, wait_told(outcome.detail)) for file, outcome in tape]
            await job.wait_for_tape(self.settings, waits)
        if tape or any(outcome.state != FileState.PRESENT for _, outcome in ended):
            policy.answered("RSE")
        if unavailable is None or job.cancelled.is_set():
            return None
        if not policy.exhausted("RSE", str(unavailable.detail)):
            return None
        return StagingError(str(unavailable.fault), str(unavailable.detail), transient=True, away="RSE")

    async def _count_missing(self, job: Job, files: Sequence[File]) -> None:
        """Count an attempt at files without a result: somebody else or a limit ended the job."""
        if job.cancelled.is_set():
            return
        failed = [
            (file, Outcome(file.number, FileState.FAILED, fault="TransferFailed", detail=MISSING_RESULT))
            for file in files
        ]
        await job.end([(file, outcome) for file, outcome in failed if not self._left(job, file)])
        await job.retried([outcome for file, outcome in failed if self._left(job, file)])

    def _left(self, job: Job, file: File) -> bool:
        """Whether a file that failed is retried; those of a cancelled task are cancelled with it."""
        return job.cancelled.is_set() or file.attempts + 1 < self.settings.preparer_file_attempts


def _outcome(number: int, line: dict[str, Any]) -> Outcome | None:
    state = _STATES.get(line["state"])
    if state is None:
        # An aborted row stays pending: it is cancelled with the task, or retried.
        return None
    return Outcome(
        number,
        state,
        line.get("bytes"),
        line.get("md5"),
        line.get("adler32"),
        line.get("fault"),
        line.get("detail"),
    )


async def _batches(
    results: AsyncIterator[dict[str, Any]], size: int = 1000, seconds: float = 0.25
) -> AsyncGenerator[list[dict[str, Any]]]:
    """Batch results, so that the ledger is written a few times a second at most."""
    queue: asyncio.Queue[dict[str, Any] | BaseException | None] = asyncio.Queue(maxsize=4 * size)

    async def pump() -> None:
        try:
            async for result in results:
                await queue.put(result)
        except Exception as exc:
            await queue.put(exc)
        else:
            await queue.put(None)

    task = asyncio.create_task(pump())
    try:
        ended = False
        while not ended:
            first = await queue.get()
            batch: list[dict[str, Any]] = []
            item: dict[str, Any] | BaseException | None = first
            loop = asyncio.get_running_loop()
            until = loop.time() + seconds
            while isinstance(item, dict):
                batch.append(item)
                if len(batch) >= size:
                    break
                try:
                    async with asyncio.timeout_at(until):
                        item = await queue.get()
                except TimeoutError:
                    break
            if batch:
                yield batch
            if item is None:
                ended = True
            elif isinstance(item, BaseException):
                raise item
    finally:
        task.cancel()
