"""Levels of loggers, the same in all processes of the service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from voservice import database
from voservice.levels import Levels

from posix_mapper.storage.levels import LevelTable

REFRESH_SECONDS = 10.0
"""Seconds until a level that was set in one process is applied in all."""
TRACKED = ("posix_mapper", "voservice")
"""Loggers whose levels are always listed."""

logger = logging.getLogger(__name__)


class StoredLevels:
    """Levels stored in the database and applied in this process."""

    def __init__(self, table: LevelTable) -> None:
        """Store them in *table*."""
        self.levels = Levels(TRACKED)
        self._table = table

    async def refresh(self) -> None:
        """Apply levels that operators have set in other processes."""
        self.levels.apply(await self._table.read())

    async def set_levels(self, levels: Mapping[str, str], who: str) -> None:
        """Store *levels* for all processes and apply them here."""
        await self._table.write(levels, who)
        self.levels.apply(levels)

    async def follow(self) -> None:
        """Refresh periodically until cancelled."""
        while True:
            try:
                await self.refresh()
            except database.UNAVAILABLE as exc:
                logger.warning("Levels of logs cannot be read: %s", exc)
            await asyncio.sleep(REFRESH_SECONDS)
