"""The outbox: a request is written to the ledger first and published after, as often as it takes.

Publishing waits for the broker's confirmation. What was not confirmed, since the broker or this process was away, is
found in the ledger and published again; a message that comes twice does no harm.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy.exc import DBAPIError

from preparer.ledger import Ledger
from preparer.tasks import declare, publish

logger = logging.getLogger(__name__)


class Outbox:
    """Publishes the messages of tasks."""

    def __init__(self, application: Celery, ledger: Ledger, interval: float = 2.0) -> None:
        """Look for what is unpublished every *interval* seconds, and whenever told."""
        self.application = application
        self.ledger = ledger
        self.interval = interval
        self._wake = asyncio.Event()
        # One thread: kombu's connections are not for several at once.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="outbox")
        self._connection: Any = None
        self.healthy = False

    def notify(self) -> None:
        """Say that something was written."""
        self._wake.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            try:
                waiting = await self.ledger.unpublished()
                if not self.healthy or waiting:
                    await loop.run_in_executor(self._thread, self._publish, waiting)
                self.healthy = True
                if waiting:
                    await self.ledger.published(waiting)
                    continue
            except (OperationalError, DBAPIError, OSError) as exc:
                if self.healthy:
                    logger.warning("Messages wait: %s", type(exc).__name__)
                self.healthy = False
            except Exception:
                # AMQP's own errors have no common ground with those above; the outbox goes on after any.
                logger.exception("Messages wait")
                self.healthy = False
            try:
                async with asyncio.timeout(self.interval):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _publish(self, waiting: Sequence[uuid.UUID]) -> None:
        try:
            if self._connection is None:
                declare(self.application)
                self._connection = self.application.connection_for_write()
                self._connection.ensure_connection(max_retries=1, timeout=5)
            for task in waiting:
                publish(self.application, str(task), self._connection)
        except BaseException:
            if self._connection is not None:
                self._connection.release()
            self._connection = None
            raise

    def close(self) -> None:
        """Let go of the broker."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._connection is not None:
            self._connection.release()
