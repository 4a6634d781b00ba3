"""The table of the levels of loggers that operators have set."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine


class LevelTable:
    """Levels by logger, and who set them."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Use the database of *engine*."""
        self._engine = engine

    async def read(self) -> dict[str, str]:
        """Return all levels, by logger."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(text("SELECT logger, level FROM mapping.log_levels"))
            return {row.logger: row.level for row in rows}

    async def write(self, levels: Mapping[str, str], who: str) -> None:
        """Store *levels*, set by *who*; other levels stay."""
        async with self._engine.begin() as connection:
            await connection.execute(
                text(
                    "INSERT INTO mapping.log_levels (logger, level, changed_by) VALUES (:logger, :level, :who)"
                    " ON CONFLICT (logger) DO UPDATE SET level = excluded.level, changed_by = excluded.changed_by,"
                    " changed = clock_timestamp()"
                ),
                [{"logger": name, "level": levels[name], "who": who} for name in sorted(levels)],
            )
