"""Aftercare of ended tasks: receipts, callbacks, the removal of expired copies, of orphaned bulk jobs, and at last of
the tasks themselves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import aiohttp

from preparer.config import RESULT_SECONDS, PreparerSettings
from preparer.ledger import File, FileState, Ledger, Task
from preparer.ledger.credentials import CredentialLost, Vault
from preparer.staging import callbacks, receipts
from preparer.staging.approach import Approach, Removal

logger = logging.getLogger(__name__)

PAGE = 5000
# Seconds after which the worker that ended a task has either written its receipt or died.
RECEIPT_DELAY = 30
# Seconds between attempts to end orphaned bulk jobs, and for how long that is tried: it needs the user's token.
ABANDON_DELAY = 10
ABANDON_LIMIT = timedelta(days=1)
# Seconds between removals of old tasks.
REMOVAL_DELAY = 60


async def pages(
    ledger: Ledger, task: Task, states: Sequence[FileState] | None = None
) -> AsyncIterator[Sequence[File]]:
    """Yield the files of a task, thousands at a time."""
    after = -1
    while page := await ledger.list_files(task.id, states, after, PAGE):
        yield page
        if len(page) < PAGE:
            return
        after = page[-1].number


@dataclass(frozen=True, slots=True)
class Aftercare:
    """What any worker does for ended tasks, whoever staged them."""

    settings: PreparerSettings
    ledger: Ledger
    vault: Vault
    approaches: Mapping[str, Approach]
    """Approaches by name: copies are removed by the one that made them."""
    session: aiohttp.ClientSession

    def steps(self) -> list[tuple[Callable[[], Awaitable[None]], float]]:
        """Return what is to be repeated, each by itself since it may take long, and the seconds between."""
        return [
            (self._call_back_all, 1),
            (self._remove_expired, 1),
            (self._write_missing_receipts, max(1, RECEIPT_DELAY)),
            (self._end_orphans, ABANDON_DELAY),
            (self._remove_old, REMOVAL_DELAY),
        ]

    async def receipt(self, task: Task) -> None:
        """Write the receipt of an ended task, or log why not."""
        try:
            await receipts.write(self.settings.abs_path_celery_results, task, pages(self.ledger, task))
        except OSError as exc:
            logger.error(
                "Cannot write the receipt", extra={"fields": {"task": str(task.id), "error": str(exc)}}
            )
            return
        await self.ledger.note_receipt(task.id)

    async def _call_back_all(self) -> None:
        # Concurrently: a host that does not answer must not delay the others.
        await asyncio.gather(*map(self._call_back, await self.ledger.due_callbacks()))

    async def _remove_expired(self) -> None:
        for task in await self.ledger.expired():
            await self._remove(task)

    async def _write_missing_receipts(self) -> None:
        """Write those of workers that died before writing one, and of tasks that ended without a worker."""
        for task in await self.ledger.without_receipt(timedelta(seconds=RECEIPT_DELAY)):
            await self.receipt(task)

    async def _end_orphans(self) -> None:
        """End orphaned bulk jobs at Cavern, so that nothing is staged for ended tasks."""
        await asyncio.gather(*map(self._abandon, await self.ledger.orphaned()))

    async def _remove_old(self) -> None:
        """Remove tasks that ended too long ago, or first where the ledger has too many files."""
        if retention := self.settings.preparer_task_retention:
            while await self.ledger.remove_ended(timedelta(seconds=retention)) is not None:
                pass
        if most := self.settings.preparer_ledger_files:
            readable = timedelta(seconds=RESULT_SECONDS)
            while await self.ledger.remove_surplus(most, readable) is not None:
                pass

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

    async def _remove(self, task: Task) -> None:
        """Remove the staged copies of an expired task."""
        approach = self.approaches.get(task.approach)
        try:
            token = self.vault.decrypt(task.credential)
        except CredentialLost as exc:
            logger.error(
                "Staged copies cannot be removed",
                extra={"fields": {"task": str(task.id), "error": str(exc)}},
            )
            await self.ledger.removed(task.id, [], complete=True)
            return
        later = False
        async for page in pages(self.ledger, task, [FileState.STAGED]):
            removal = await approach.remove(task, token, page) if approach else Removal()
            await self.ledger.removed(task.id, removal.gone, complete=False)
            later = later or bool(removal.later)
        if not later:
            await self.ledger.removed(task.id, [], complete=True)
            logger.info("Staged copies removed", extra={"fields": {"task": str(task.id)}})


def _log_orphan(task: Task, error: str) -> None:
    fields = {"task": str(task.id), "job": task.job, "error": error}
    logger.error("Cannot end the bulk job of an ended task", extra={"fields": fields})
