"""LISTEN: hear at once of committed changes to jobs, in whichever process they were made."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from asyncpg.exceptions import InterfaceError, PostgresError
from vospace_client.terms import ACTIVE_PHASES

from vospace.uws.tables import PHASE_CHANNEL, ROWS_CHANNEL, SETTING_CHANNEL

logger = logging.getLogger(__name__)

Connect = Callable[[], Awaitable[Any]]
"""Makes an asyncpg connection."""
Observer = Callable[[str, str, str], None]


class Notices:
    """One listening connection of a process, made anew when it breaks.

    A subscriber gets an event that is set whenever something happened to its job. After a reconnect all are set,
    since notices may have been missed: a subscriber always reads the state for itself.
    """

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._subscribers: defaultdict[tuple[str, str], set[asyncio.Event]] = defaultdict(set)
        self._observers: list[Observer] = []
        self._setting_observers: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None

    def observe(self, observer: Observer) -> None:
        """Call `observer(job_id, phase, kind)` on each change of a phase, DELETED and RELEASED (given back unfinished)
        among them; after a reconnect with empty texts."""
        self._observers.append(observer)

    def on_setting(self, observer: Callable[[], None]) -> None:
        """Call `observer` when an operator has set something, and after a reconnect."""
        self._setting_observers.append(observer)

    async def start(self) -> None:
        self._task = asyncio.create_task(self._listen(), name="job notices")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    @contextmanager
    def subscribe(self, job_id: str, channel: str = PHASE_CHANNEL) -> Iterator[asyncio.Event]:
        """An event for one job. Subscribe first, then read: what happens in between is not missed."""
        event = asyncio.Event()
        key = (channel, job_id)
        self._subscribers[key].add(event)
        try:
            yield event
        finally:
            self._subscribers[key].discard(event)
            if not self._subscribers[key]:
                del self._subscribers[key]

    async def _listen(self) -> None:
        delay = 0.1
        while True:
            try:
                connection = await self._connect()
            except (OSError, PostgresError) as error:
                logger.warning("cannot listen for job notices: %s", error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)
                continue
            delay = 0.1
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _, lost=lost: lost.set())
            try:
                await connection.add_listener(PHASE_CHANNEL, self._on_phase)
                await connection.add_listener(ROWS_CHANNEL, self._on_rows)
                await connection.add_listener(SETTING_CHANNEL, self._on_setting)
                self._wake_all()
                await lost.wait()
                logger.warning("the connection that listens for job notices broke; making a new one")
            except (OSError, PostgresError, InterfaceError) as error:
                logger.warning("listening for job notices failed: %s", error)
                await asyncio.sleep(delay)
            finally:
                connection.terminate()

    def _on_phase(self, _connection: Any, _pid: int, _channel: str, payload: Any) -> None:
        job_id, phase, kind = str(payload).split(" ", 2)
        self._wake(PHASE_CHANNEL, job_id)
        if phase not in ACTIVE_PHASES:
            self._wake(ROWS_CHANNEL, job_id)
        for observer in self._observers:
            observer(job_id, phase, kind)

    def _on_rows(self, _connection: Any, _pid: int, _channel: str, payload: Any) -> None:
        self._wake(ROWS_CHANNEL, str(payload))

    def _on_setting(self, *_: Any) -> None:
        for observer in self._setting_observers:
            observer()

    def _wake(self, channel: str, job_id: str) -> None:
        for event in self._subscribers.get((channel, job_id), ()):
            event.set()

    def _wake_all(self) -> None:
        for events in self._subscribers.values():
            for event in events:
                event.set()
        for observer in self._observers:
            observer("", "", "")
        self._on_setting()
