"""What every approach is: it brings the pending files of one task into the user's area."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from preparer.ledger.store import File, Outcome, Task
from preparer.ledger.tables import GOOD, FileState

logger = logging.getLogger("preparer.staging")

Report = Callable[[Sequence[Outcome]], Awaitable[None]]


class StagingError(Exception):
    """The whole task cannot go on. ``fault`` is the kind of reason, as on files."""

    def __init__(self, fault: str, detail: str, *, transient: bool = False) -> None:
        """Say why, and whether trying again may help."""
        super().__init__(detail)
        self.fault = fault
        self.detail = detail
        self.transient = transient


@dataclass
class Job:
    """A task in a worker's hands."""

    task: Task
    token: str
    report: Report
    retried: Report
    remember: Callable[[str | None, int], Awaitable[None]]
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self, source: str, file: File) -> None:
        """Say that a file is on its way."""
        logger.info("Staging file from %s to %s", source, file.target)

    async def end(self, results: Sequence[tuple[File, Outcome]]) -> None:
        """Record how files went, and then say so."""
        await self.report([outcome for _, outcome in results])
        for file, outcome in results:
            if outcome.state in GOOD:
                logger.info(
                    "Successfully staged file %s: %s, %s bytes", file.target, outcome.state, outcome.bytes
                )
            elif outcome.state == FileState.FAILED:
                logger.warning("Failed to stage file %s: %s: %s", file.target, outcome.fault, outcome.detail)


class Approach(ABC):
    """A way to stage files. The ledger decides what is pending; an approach reports each file once it is final."""

    @abstractmethod
    async def stage(self, job: Job, files: Sequence[File]) -> None:
        """Bring every one of *files* to a final state, or raise ``StagingError``; ends soon once cancelled."""

    @abstractmethod
    async def remove(self, task: Task, token: str, files: Sequence[File]) -> list[int]:
        """Remove staged copies that are unchanged since; returns the numbers of the files that are gone."""

    async def resume(self, job: Job, files: Sequence[File]) -> bool:
        """Go on with what an earlier worker began on *files*; False where there is nothing to go on with."""
        return False
