"""The work of a bulk pull.

Rows are read in pages, resolved to targets (containers created, permissions checked, existing files verified),
fetched by a bounded number of workers, and placed in batches, one after the other. For a row that is reported as
COMPLETED it is guaranteed that:

- its bytes have the requested length and checksums and those stated by the source,
- bytes, owner and properties were durable (one `syncfs` per batch instead of an `fsync` per file) before the file
  appeared under its name, atomically,
- the name was durable (`fsync` of each directory of the batch) before the row was reported.

A batch is placed and reported under the lock of the job's row, so an abort happens either before or after it. A run
that continues after a crash fetches again what was not reported. Where an existing file would be an error, it
recognises its own files, since it recorded which ones it was about to place. A job needs memory for one page of rows
and for the files in flight, whatever its length.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from voservice import tracing
from vospace_client.terms import ExecutionPhase

from vospace.bulk.model import Finished, IfExists, Row, RowState
from vospace.bulk.store import RowStore
from vospace.bulk.targets import Target, Targets, failed
from vospace.config import Settings
from vospace.models.caller import Caller
from vospace.models.errors import Fault, TransferFailed
from vospace.space.receive import KEEP_FROM, Receiver
from vospace.space.space import Space
from vospace.space.write import Upload
from vospace.storage.sinks import storage_failure
from vospace.storage.staging import is_kept
from vospace.storage.system_calls import sync_file_system
from vospace.storage.threads import in_thread, uninterrupted
from vospace.transfers.continuing import kept_key
from vospace.transfers.fetcher import Fetched, Fetcher
from vospace.uws.executor import Run
from vospace.uws.model import ErrorSummary, Outcome, Result, now

logger = logging.getLogger(__name__)

PAGE = 512
BATCH_FILES = 256
BATCH_BYTES = 16 << 20
BATCH_SECONDS = 0.1
SMALL = 1 << 20
"""Files up to this size are kept in memory until their batch is written; larger ones are written as they arrive."""


@dataclass(slots=True)
class Arrived:
    """A fetched file that waits for its batch."""

    target: Target
    receiver: Receiver
    fetched: Fetched

    async def close(self, *, keep: bool = False) -> None:
        await self.receiver.close(keep=keep)
        self.target.close()


class Batch:
    """Files that are staged together, then placed and reported in one transaction."""

    def __init__(self, items: list[Arrived | Finished]) -> None:
        self.arrived = [item for item in items if isinstance(item, Arrived)]
        self.done = [item for item in items if isinstance(item, Finished)]
        self.staged: list[tuple[Arrived, Upload]] = []
        self.stamps: dict[int, list[int]] = {}


class BulkRunner:
    """Runs bulk pulls."""

    def __init__(self, space: Space, rows: RowStore, fetcher: Fetcher, settings: Settings) -> None:
        self._space = space
        self._rows = rows
        self._fetcher = fetcher
        self._concurrency = settings.vospace_bulk_concurrency
        self._url = f"{settings.service_url}/bulk-pull"

    async def __call__(self, run: Run) -> Outcome:
        result = Result("files", f"{self._url}/{run.job.id}/results/files")
        await run.announce(result)
        await _Pull(self._space, self._rows, self._fetcher, run, self._concurrency).work()
        counts = await self._rows.counts(run.job.id)
        errors = counts.get(RowState.ERROR, 0)
        if not errors:
            return Outcome(results=(result,))
        first, transient = await self._rows.first_failure(run.job.id)
        message = f"TransferFailed: {errors} of {sum(counts.values())} files failed: {first}"
        return Outcome(ExecutionPhase.ERROR, (result,), ErrorSummary(message, transient))


class _Pull:
    """One run of one bulk pull."""

    def __init__(self, space: Space, rows: RowStore, fetcher: Fetcher, run: Run, concurrency: int) -> None:
        self._space = space
        self._rows = rows
        self._fetcher = fetcher
        self._run = run
        self._workers = int(run.job.parameter("concurrency") or concurrency)
        self._if_exists = IfExists(run.job.parameter("if_exists") or IfExists.VERIFY)
        caller = Caller.from_record(run.job.caller)
        self._trusted = caller.trusted
        self._targets = Targets(space, caller, self._if_exists)
        self._arrivals: asyncio.Queue[Arrived | Finished | None] = asyncio.Queue(BATCH_FILES)
        self._staged: asyncio.Queue[Batch | None] = asyncio.Queue(1)
        self._waiting = 0
        self._buffer_freed = asyncio.Condition()
        self._event = 0
        begun = run.job.start_time
        self._continued = run.job.attempt > 1 or begun is None or (now() - begun).total_seconds() > 1

    async def work(self) -> None:
        self._event = await self._rows.last_event(self._run.job.id) + 1
        todo: asyncio.Queue[Target | None] = asyncio.Queue(PAGE)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._stage_all())
                group.create_task(self._place_all())
                workers = [group.create_task(self._fetch_all(todo)) for _ in range(self._workers)]
                async with aclosing(self._resolve_all()) as targets:
                    async for target in targets:
                        await _hand_over(todo, target)
                # After a failure there is nobody left to take these: the group has cancelled the workers.
                for _ in workers:
                    await todo.put(None)
                await asyncio.wait(workers)
                await self._arrivals.put(None)
        except BaseExceptionGroup as group_error:
            raise _single(group_error) from group_error
        finally:
            await self._drop(todo)
            self._targets.close()

    async def _drop(self, todo: asyncio.Queue[Target | None]) -> None:
        while not todo.empty():
            if (target := todo.get_nowait()) is not None:
                target.close()
        while not self._arrivals.empty():
            item = self._arrivals.get_nowait()
            if isinstance(item, Arrived):
                await item.close(keep=not self._run.ends)
        while not self._staged.empty():
            if (batch := self._staged.get_nowait()) is not None:
                await self._close(batch)

    async def _resolve_all(self) -> AsyncGenerator[Target, None]:
        """Yield targets to fetch, in order; rows that need no fetch go straight to the committer."""
        after = -1
        while rows := await self._rows.open_rows(self._run.job.id, after, PAGE):
            after = rows[-1].index
            resolved = await asyncio.to_thread(self._resolve, rows)
            targets = deque(item for item in resolved if isinstance(item, Target))
            try:
                for item in resolved:
                    if isinstance(item, Finished):
                        await self._arrivals.put(item)
                while targets:
                    yield targets.popleft()
            finally:
                for target in targets:
                    target.close()

    def _resolve(self, rows: list[Row]) -> list[Target | Finished]:
        return [self._targets.find(row, time.time()) for row in rows]

    async def _fetch_all(self, todo: asyncio.Queue[Target | None]) -> None:
        while (target := await todo.get()) is not None:
            size = target.row.expected.size
            key = kept_key(self._run.job.id, target.row.index) if size is None or size > KEEP_FROM else None
            begin = partial(self._space.upload_at, target.place, target.exists, key)
            receiver = Receiver(begin, buffer=SMALL, key=key)
            try:
                item = await self._fetch(target, receiver)
                if isinstance(item, Arrived):
                    async with self._buffer_freed:
                        await self._buffer_freed.wait_for(lambda: self._waiting < 2 * BATCH_BYTES)
                        self._waiting += receiver.buffered
                await self._arrivals.put(item)
            except BaseException as error:
                interrupted = isinstance(error, asyncio.CancelledError) and not self._run.ends
                await receiver.close(keep=interrupted)
                target.close()
                raise
            if isinstance(item, Finished):
                await receiver.close()
                target.close()

    async def _fetch(self, target: Target, receiver: Receiver) -> Arrived | Finished:
        target.started = time.time()
        try:
            await self._recover(target, receiver)
            left = (
                await in_thread(self._space.quota_left, target.place) if target.place.access.quota else None
            )
            fetched = await self._fetcher.fetch(
                target.row.sources,
                receiver,
                target.row.expected,
                left,
                trusted=self._trusted,
                leftover=receiver,
            )
        except Exception as error:
            return _unfetched(target, error)
        return Arrived(target, receiver, fetched)

    async def _recover(self, target: Target, receiver: Receiver) -> None:
        """Open what an earlier run of the job has left of the file. In a first run, it is not worth looking for one of
        unknown size."""
        key = receiver.key
        if key is None or (target.row.expected.size is None and not self._continued):
            return
        if await in_thread(is_kept, target.place.directory, key):
            await receiver.open()

    # Batches.

    async def _stage_all(self) -> None:
        """Stage each batch while the previous one is placed."""
        more = True
        while more:
            items, more = await self._gather()
            if items:
                batch = Batch(items)
                try:
                    with tracing.span("write", {"files": len(batch.arrived)}):
                        await in_thread(self._stage, batch)
                    await self._staged.put(batch)
                except BaseException:
                    await self._close(batch)
                    raise
        await self._staged.put(None)

    async def _place_all(self) -> None:
        while (batch := await self._staged.get()) is not None:
            try:
                with tracing.span("commit", {"files": len(batch.staged)}):
                    await uninterrupted(partial(self._commit, batch))
            finally:
                await self._close(batch)

    async def _gather(self) -> tuple[list[Arrived | Finished], bool]:
        """Return what has arrived, up to the limits of a batch, and whether there is more to come."""
        first = await self._arrivals.get()
        if first is None:
            return [], False
        batch, size = [first], 0
        try:
            async with asyncio.timeout(BATCH_SECONDS):
                while len(batch) < BATCH_FILES and size < BATCH_BYTES:
                    item = await self._arrivals.get()
                    if item is None:
                        return batch, False
                    batch.append(item)
                    size += item.receiver.buffered if isinstance(item, Arrived) else 0
        except TimeoutError:
            pass
        except BaseException:
            await self._close(Batch(batch))
            raise
        return batch, True

    async def _close(self, batch: Batch) -> None:
        freed = 0
        for item in batch.arrived:
            freed += item.receiver.buffered
            await item.close()
        async with self._buffer_freed:
            self._waiting -= freed
            self._buffer_freed.notify_all()

    def _stage(self, batch: Batch) -> None:
        """Write the files of a batch as unnamed files, and make all of them durable at once."""
        for item in batch.arrived:
            try:
                if self._if_exists is IfExists.VERIFY and self._targets.holds(item.target, item.fetched):
                    batch.done.append(_finished(item, RowState.SKIPPED))
                    continue
                properties = item.receiver.properties(item.fetched.media_type, item.fetched.encoding)
                upload = item.receiver.stage(properties, sync=False)
                batch.staged.append((item, upload))
                batch.stamps[item.target.row.index] = upload.stamp
            except OSError as error:
                batch.done.append(_unfetched(item.target, storage_failure(error)))
            except Exception as error:
                batch.done.append(_unfetched(item.target, error))
        if len(batch.staged) == 1:  # does not wait for concurrent writes of others
            os.fsync(batch.staged[0][1].descriptor)
        elif batch.staged:
            sync_file_system(batch.staged[0][1].descriptor)

    async def _commit(self, batch: Batch) -> None:
        await self._rows.stamp(self._run.job.id, batch.stamps)
        async with self._run.committing() as connection:
            await asyncio.to_thread(self._place, batch)
            await self._rows.finish(connection, self._run.job.id, self._event, batch.done)
            await self._run.progress(connection)
        self._event += len(batch.done)

    def _place(self, batch: Batch) -> None:
        """Give the files of a batch their names, and make the names durable."""
        done = batch.done
        directories = {}
        for item, upload in batch.staged:
            try:
                upload.place(replace=self._if_exists is not IfExists.FAIL, sync=False)
            except Fault as fault:
                done.append(failed(item.target.row, item.target.started, fault))
                continue
            directory = item.target.place.directory
            directories[directory.path] = directory
            done.append(_finished(item, RowState.COMPLETED))
            upload.close()
        for directory in directories.values():
            directory.sync()


async def _hand_over(todo: asyncio.Queue[Target | None], target: Target) -> None:
    """Put a target into a queue; it is closed if it gets no place there."""
    try:
        await todo.put(target)
    except BaseException:
        target.close()
        raise


def _finished(item: Arrived, state: RowState) -> Finished:
    row, fetched = item.target.row, item.fetched
    return Finished(row.index, state, item.target.started, fetched, source=fetched.source)


def _unfetched(target: Target, error: Exception) -> Finished:
    """Return the result of a row that failed, whatever the error: it affects no other row."""
    if not isinstance(error, Fault):
        logger.error("row %d of a bulk pull failed unexpectedly", target.row.index, exc_info=error)
        error = TransferFailed("InternalFault", f"{target.row.target}: {type(error).__name__}")
    return failed(target.row, target.started, error)


def _single(error: BaseExceptionGroup) -> BaseException:
    """The first cause of a group, where the others only followed it."""
    first = error.exceptions[0]
    return _single(first) if isinstance(first, BaseExceptionGroup) else first
