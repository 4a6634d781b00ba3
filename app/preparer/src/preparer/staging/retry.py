"""How long a task waits: a little before each further try, and for a service that is away up to a limit."""

from __future__ import annotations

import asyncio
import logging
import random
import time

from vospace_client.errors import Service, TransferError

from preparer.config import PreparerSettings

logger = logging.getLogger("preparer.staging")


def delay(settings: PreparerSettings, attempt: int, asked: float | None = None) -> float:
    """Seconds before the next try; *asked* is what the service asked for. It doubles from try to try up to a limit."""
    longest = settings.preparer_retry_delay_max
    most = min(longest, settings.preparer_retry_delay * 2 ** min(max(attempt - 1, 0), 30))
    # Full jitter, so that many files that failed at once do not come back at once.
    return max(min(asked or 0.0, longest), random.uniform(0, most))  # noqa: S311 - no secret


class RetryPolicy:
    """What one task has left of its policy.

    A service is away from the first failure that says so until it answers any of the task's files. There is one clock
    for all files, since they stand still together: files that come later do not each wait for the whole limit again.
    """

    def __init__(
        self, settings: PreparerSettings, cancelled: asyncio.Event, since: dict[Service, float]
    ) -> None:
        """Keep in *since* the moments (monotonic seconds) at which services went away; end with *cancelled*."""
        self.settings = settings
        self.cancelled = cancelled
        self.since = since

    def answered(self, *services: Service) -> None:
        """Note that services are there; all of them without a name."""
        for service in services or tuple(self.since):
            self.since.pop(service, None)

    def exhausted(self, service: Service) -> bool:
        """Note that a service is away; whether it has been for as long as anybody waits."""
        now = time.monotonic()
        return now - self.since.setdefault(service, now) >= self.settings.preparer_outage

    async def pause(self, seconds: float) -> bool:
        """Wait; False as soon as the task is cancelled."""
        try:
            async with asyncio.timeout(seconds):
                await self.cancelled.wait()
        except TimeoutError:
            return True
        return False

    async def outlast(self, error: TransferError, tries: int) -> bool:
        """Wait before the next of *tries* where *error* says that a service is away.

        False where it says something else, where that has lasted for too long, or where the task is cancelled.
        """
        if error.away is None or self.cancelled.is_set():
            return False
        known = error.away in self.since
        if self.exhausted(error.away):
            return False
        if not known:
            logger.warning(
                "Waiting up to %d s for %s: %s", self.settings.preparer_outage, error.away, error.detail
            )
        return await self.pause(delay(self.settings, tries, error.retry_after))
