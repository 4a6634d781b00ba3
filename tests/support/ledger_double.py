"""A stand-in for the ledger of prepare-data, for tests of how files are staged."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from preparer.ledger import Outcome

Report = Callable[[Sequence[Outcome]], Awaitable[None]]
Remember = Callable[[str | None, int], Awaitable[None]]


class LedgerDouble:
    """Hands what a job writes to three functions."""

    def __init__(self, report: Report, retried: Report, remember: Remember) -> None:
        """Hand over outcomes to *report*, tries that failed to *retried*, and bulk jobs to *remember*."""
        self._report = report
        self._retried = retried
        self._remember = remember
        self.awaited: list[Outcome] = []

    async def record(self, _task: uuid.UUID, outcomes: Sequence[Outcome]) -> None:
        """Take outcomes of files."""
        await self._report(outcomes)

    async def tried(self, _task: uuid.UUID, failures: Sequence[Outcome]) -> None:
        """Take tries that failed and will be made again."""
        await self._retried(failures)

    async def waiting(self, _task: uuid.UUID, outcomes: Sequence[tuple[Outcome, float]]) -> None:
        """Take what pending files wait for."""
        self.awaited += [outcome for outcome, _ in outcomes]

    async def job(self, _task: uuid.UUID, _worker: str, job: str | None, event: int = 0) -> None:
        """Take a bulk job."""
        await self._remember(job, event)


def ledger(report: Report, retried: Report, remember: Remember) -> Any:
    """Return a ledger that calls these functions."""
    return LedgerDouble(report, retried, remember)
