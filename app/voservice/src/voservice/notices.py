"""LISTEN: hear at once of what any process has committed and told of by NOTIFY."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from asyncpg.exceptions import InterfaceError, PostgresError

logger = logging.getLogger(__name__)

Connect = Callable[[], Awaitable[Any]]
"""Makes an asyncpg connection."""
LOST = (OSError, PostgresError, InterfaceError)
"""Errors of a connection that is not to be had, or breaks. Any other is a fault of the program, and ends it."""
Observer = Callable[[str], None]
"""Is called with a notice; with an empty text after a reconnect, when any number may have been missed."""


class Notices:
    """One listening connection of a process, made anew when it breaks.

    The first word of a notice is the key of what has changed. A subscriber to a key gets an event that is set whenever
    something happened to it. After a reconnect all are set, since notices may have been missed: a subscriber always
    reads the state for itself.
    """

    def __init__(self, connect: Connect, channels: Collection[str]) -> None:
        """Listen to *channels*, once started."""
        self._connect = connect
        self._observers: dict[str, list[Observer]] = {channel: [] for channel in channels}
        self._subscribers: defaultdict[tuple[str, str], set[asyncio.Event]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None

    def observe(self, channel: str, observer: Observer) -> None:
        """Call *observer* with each notice of a channel."""
        self._observers[channel].append(observer)

    async def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.create_task(self._listen(), name="notices")
        self._task.add_done_callback(_tell)

    async def stop(self) -> None:
        """Listen no longer. Raises what has ended it before."""
        listening, self._task = self._task, None
        if listening is not None:
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening

    @contextmanager
    def subscribe(self, key: str, *channels: str) -> Iterator[asyncio.Event]:
        """Yield an event for one key. Subscribe first, then read: what happens in between is not missed."""
        event = asyncio.Event()
        for channel in channels:
            self._subscribers[channel, key].add(event)
        try:
            yield event
        finally:
            for channel in channels:
                self._subscribers[channel, key].discard(event)
                if not self._subscribers[channel, key]:
                    del self._subscribers[channel, key]

    async def _listen(self) -> None:
        delay = 0.1
        while True:
            try:
                connection = await self._connect()
            except LOST as error:
                logger.warning("Cannot listen for notices", extra={"fields": {"error": str(error)}})
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)
                continue
            delay = 0.1
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _, lost=lost: lost.set())
            try:
                for channel in self._observers:
                    await connection.add_listener(channel, self._on_notice)
                self._wake_all()
                await lost.wait()
                logger.warning("The connection that listens for notices broke; a new one is made")
            except LOST as error:
                logger.warning("Cannot listen for notices", extra={"fields": {"error": str(error)}})
                await asyncio.sleep(delay)
            finally:
                connection.terminate()

    def _on_notice(self, _connection: Any, _pid: int, channel: str, payload: Any) -> None:
        notice = str(payload)
        for event in self._subscribers.get((channel, notice.partition(" ")[0]), ()):
            event.set()
        for observer in self._observers[channel]:
            observer(notice)

    def _wake_all(self) -> None:
        for events in self._subscribers.values():
            for event in events:
                event.set()
        for observers in self._observers.values():
            for observer in observers:
                observer("")


def _tell(listening: asyncio.Task[None]) -> None:
    """Log at once what `Notices.stop` raises in the end."""
    if not listening.cancelled() and (error := listening.exception()) is not None:
        logger.critical("No notices are heard any more", exc_info=error)
