"""What every approach is: it brings the pending files of one task into the user's area."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import zlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from preparer.config import PreparerSettings
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


@dataclass
class Removal:
    """What came of removing staged copies, by the files' numbers. Those in neither list are the user's own by now."""

    gone: list[int] = field(default_factory=list)
    later: list[int] = field(default_factory=list)


@dataclass
class Measured:
    """Size and checksums of bytes on their way."""

    size: int = 0
    adler: int = 1

    def __post_init__(self) -> None:
        """Begin with nothing."""
        self.digest = hashlib.md5(usedforsecurity=False)

    def add(self, chunk: bytes) -> None:
        """Count a chunk."""
        self.size += len(chunk)
        self.digest.update(chunk)
        self.adler = zlib.adler32(chunk, self.adler)

    @property
    def md5(self) -> str:
        """MD5 as 32 hexadecimal digits."""
        return self.digest.hexdigest()

    @property
    def adler32(self) -> str:
        """Adler-32 as 8 hexadecimal digits."""
        return f"{self.adler:08x}"


def delay(settings: PreparerSettings, attempt: int, asked: float | None = None) -> float:
    """Seconds before the next try; *asked* is what the service asked for. It doubles from try to try up to a limit."""
    longest = settings.preparer_retry_delay_max
    most = min(longest, settings.preparer_retry_delay * 2 ** (attempt - 1))
    # Full jitter, so that many files that failed at once do not come back at once.
    return max(min(asked or 0.0, longest), random.uniform(0, most))  # noqa: S311 - no secret


class Approach(ABC):
    """A way to stage files. The ledger decides what is pending; an approach reports each file once it is final."""

    @abstractmethod
    async def stage(self, job: Job, files: Sequence[File]) -> None:
        """Bring every one of *files* to a final state, or raise ``StagingError``; ends soon once cancelled."""

    @abstractmethod
    async def remove(self, task: Task, token: str, files: Sequence[File]) -> Removal:
        """Remove staged copies that are unchanged since."""

    async def admit(self, job: Job, pages: AsyncIterator[Sequence[File]]) -> None:
        """Raise ``StagingError`` where all pending files of the task together cannot be staged, before one is."""
        return

    async def resume(self, job: Job, files: Sequence[File]) -> bool:
        """Go on with what an earlier worker began on *files*; False where there is nothing to go on with."""
        return False
