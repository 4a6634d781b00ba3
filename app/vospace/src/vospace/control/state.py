"""The state of the service, the same in all its processes: kept in the database, heard of by NOTIFY."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from enum import StrEnum

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql import text
from voservice import database
from voservice.levels import Levels
from voservice.notices import Notices

from vospace.control.tables import SETTING_CHANNEL, setting
from vospace.models.errors import InvalidArgument, ServiceBusy

STATE = "state"
LEVEL = "level "
TRACKED = ("vospace", "voservice")

logger = logging.getLogger(__name__)


class State(StrEnum):
    """The words of OpenCADC's services."""

    READ_WRITE = "ReadWrite"
    READ_ONLY = "ReadOnly"
    OFFLINE = "Offline"

    @property
    def note(self) -> str:
        """The note in the availability document."""
        match self:
            case State.READ_WRITE:
                return "service is accepting requests"
            case State.READ_ONLY:
                return "service is in read-only mode for maintenance"
            case State.OFFLINE:
                return "service is offline for maintenance"


class Control:
    """Knows the state, refuses what it does not allow, and sets the levels of this process's loggers."""

    def __init__(self, engine: AsyncEngine, notices: Notices) -> None:
        self.state = State.READ_WRITE
        self._engine = engine
        self.levels = Levels(TRACKED)
        self._observers: list[Callable[[], None]] = []
        self._reading: set[asyncio.Task[None]] = set()
        notices.observe(SETTING_CHANNEL, self._read_soon)

    def observe(self, observer: Callable[[], None]) -> None:
        """Call `observer` when the state has changed."""
        self._observers.append(observer)

    def require_readable(self) -> None:
        """Raises ServiceBusy when the service is offline."""
        if self.state is State.OFFLINE:
            raise ServiceBusy(self.state.note)

    def require_writable(self) -> None:
        """Raises ServiceBusy unless the service takes changes."""
        if self.state is not State.READ_WRITE:
            raise ServiceBusy(self.state.note)

    async def close(self) -> None:
        """Stop reading what has just been heard of; after the notices have stopped."""
        reading = list(self._reading)
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)

    async def read(self) -> None:
        """Take over what the database says."""
        async with database.reader(self._engine).connect() as connection:
            rows = (await connection.execute(select(setting.c.name, setting.c.value))).all()
        self._apply({row.name: row.value for row in rows})

    async def set_state(self, state: str, who: str) -> None:
        """Raises InvalidArgument."""
        wanted = next((known for known in State if known.lower() == state.lower()), None)
        if wanted is None:
            raise InvalidArgument(f"state must be {', '.join(State)}, not {state[:40]!r}")
        await self._write({STATE: wanted.value}, who)
        logger.warning("state is %s now, by %s", wanted, who)

    async def set_levels(self, levels: Mapping[str, str], who: str) -> None:
        """Set the levels of loggers in all processes."""
        await self._write({LEVEL + name: word for name, word in levels.items()}, who)

    async def refresh(self) -> None:
        """Do nothing: what another process sets is heard of."""

    async def _write(self, values: Mapping[str, str], who: str) -> None:
        rows = [{"name": name, "value": value, "changed_by": who} for name, value in values.items()]
        statement = insert(setting).values(rows)
        statement = statement.on_conflict_do_update(
            index_elements=[setting.c.name],
            set_={
                "value": statement.excluded.value,
                "changed_by": statement.excluded.changed_by,
                "changed": text("clock_timestamp()"),
            },
        )
        async with self._engine.begin() as connection:
            await connection.execute(statement)
            await connection.execute(text("SELECT pg_notify(:channel, '')"), {"channel": SETTING_CHANNEL})
        await self.read()

    def _read_soon(self, _notice: str = "") -> None:
        task = asyncio.create_task(self._try_to_read())
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    async def _try_to_read(self) -> None:
        try:
            await self.read()
        except (SQLAlchemyError, OSError) as error:
            logger.warning("cannot read the state of the service: %s", error)

    def _apply(self, values: Mapping[str, str]) -> None:
        self.levels.apply(
            {name.removeprefix(LEVEL): value for name, value in values.items() if name.startswith(LEVEL)}
        )
        state = State(values.get(STATE, State.READ_WRITE))
        if state is not self.state:
            self.state = state
            for observer in self._observers:
                observer()
