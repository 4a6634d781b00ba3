"""Transactional outbox: a request is committed to the ledger first, and published until the broker confirms it.

What is not confirmed, because the broker or this process went away, is found in the ledger and published again.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Sequence

from celery import Celery
from kombu import Connection
from kombu.exceptions import OperationalError
from sqlalchemy.exc import DBAPIError

from preparer.broker.app import connect, publish
from preparer.ledger import Ledger

logger = logging.getLogger(__name__)


class Outbox:
    """Publishes the messages of tasks.

    `healthy` says whether the broker has confirmed everything so far.
    """

    def __init__(self, application: Celery, ledger: Ledger, interval: float = 2.0) -> None:
        """Look for unpublished tasks every *interval* seconds, and whenever notified."""
        self.application = application
        self.ledger = ledger
        self.interval = interval
        self._wake = asyncio.Event()
        # Opened with the first message, and kept: to open one for each would take longer than to publish.
        self._connection: Connection | None = None
        self.healthy = False

    def notify(self) -> None:
        """Look for unpublished tasks now."""
        self._wake.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            self._wake.clear()
            try:
                waiting = await self.ledger.unpublished()
                if not self.healthy or waiting:
                    await asyncio.to_thread(self._publish, waiting)
                self.healthy = True
                if waiting:
                    await self.ledger.published([task for task, _ in waiting])
                    continue
            except (OperationalError, DBAPIError, OSError) as exc:
                if self.healthy:
                    logger.warning("Cannot publish", extra={"fields": {"error": type(exc).__name__}})
                self.healthy = False
            except Exception:
                # AMQP's own errors have no common base with those above; publishing goes on after any.
                logger.exception("Cannot publish")
                self.healthy = False
            try:
                async with asyncio.timeout(self.interval):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _publish(self, waiting: Sequence[tuple[uuid.UUID, str | None]]) -> None:
        try:
            if self._connection is None:
                self._connection = connect(self.application)
            for task, trace in waiting:
                publish(self.application, str(task), self._connection, trace)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection to the broker."""
        if self._connection is not None:
            self._connection.release()
        self._connection = None
