"""Retry policy: exponential backoff for each file, and one deadline for each service that is unavailable."""

from __future__ import annotations

import asyncio
import logging
import random
import time

from vospace_client.errors import Service, TransferError

from preparer.config import PreparerSettings

logger = logging.getLogger("preparer.staging")


def delay(settings: PreparerSettings, attempt: int, asked: float | None = None) -> float:
    """Return the seconds before the next attempt: exponential with full jitter, and at least *asked*."""
    longest = settings.preparer_retry_delay_max
    most = min(longest, settings.preparer_retry_delay * 2 ** min(max(attempt - 1, 0), 30))
    # Jitter, so that many files that failed at once are not retried at once.
    return max(min(asked or 0.0, longest), random.uniform(0, most))  # noqa: S311 - no secret


class RetryPolicy:
    """How long one task waits for services that are unavailable.

    A service is unavailable from the first failure that says so until it answers a request for any of the task's files.
    The files share the deadline, so that each further one does not wait for the whole of it again.
    """

    def __init__(
        self, settings: PreparerSettings, cancelled: asyncio.Event, since: dict[Service, float]
    ) -> None:
        """Keep in *since* the times (monotonic seconds) since which services are unavailable; end with *cancelled*."""
        self.settings = settings
        self.cancelled = cancelled
        self.since = since

    def answered(self, *services: Service) -> None:
        """Note that these services answer; all of them without a name."""
        for service in services or tuple(self.since):
            self.since.pop(service, None)

    def exhausted(self, service: Service, detail: str) -> bool:
        """Note that a service is unavailable, and log it once; return whether its deadline has passed."""
        now, limit = time.monotonic(), self.settings.preparer_outage
        if service not in self.since:
            self.since[service] = now
            fields = {"service_away": service, "seconds": limit, "detail": detail}
            logger.warning("Waiting for a service", extra={"fields": fields})
        return now - self.since[service] >= limit

    async def pause(self, seconds: float) -> bool:
        """Wait; return False as soon as the task is cancelled."""
        try:
            async with asyncio.timeout(seconds):
                await self.cancelled.wait()
        except TimeoutError:
            return True
        return False

    async def outlast(self, error: TransferError, tries: int) -> bool:
        """Wait before the next attempt if *error* says that a service is unavailable; *tries* were made.

        Return False if it says something else, if the deadline has passed, or if the task is cancelled.
        """
        if error.away is None or self.cancelled.is_set():
            return False
        if self.exhausted(error.away, error.detail):
            return False
        return await self.pause(delay(self.settings, tries, error.retry_after))
