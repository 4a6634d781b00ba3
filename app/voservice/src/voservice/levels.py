"""Levels of loggers with the names of log4j, as OpenCADC's services list and set them at ``/logControl``."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

_TO_PYTHON = {"TRACE": logging.DEBUG, "WARN": logging.WARNING, "FATAL": logging.CRITICAL} | {
    name: getattr(logging, name) for name in ("DEBUG", "INFO", "ERROR")
}
_FROM_PYTHON = {logging.DEBUG: "DEBUG", logging.INFO: "INFO", logging.WARNING: "WARN", logging.ERROR: "ERROR"}
MISSING = "level is missing: TRACE, DEBUG, INFO, WARN, ERROR or FATAL"


class Levels:
    """The levels of this process's loggers: of those always listed, and of any set since."""

    def __init__(self, tracked: Iterable[str]) -> None:
        """List the loggers *tracked* in any case."""
        self._tracked = dict.fromkeys(tracked)

    def text(self) -> str:
        """Return a line with logger and level for each logger."""
        lines = []
        for name in self._tracked:
            level = logging.getLogger(name).getEffectiveLevel()
            word = _FROM_PYTHON.get(level, "FATAL" if level > logging.ERROR else "DEBUG")
            lines.append(f"{name} {word}\n")
        return "".join(lines)

    def check(self, level: str | None, names: list[str]) -> dict[str, str]:
        """Return the levels to set, by logger: that of each of *names*, or of all that are listed.

        Raises ``ValueError`` with a message that names the error.
        """
        if level is None:
            raise ValueError(MISSING)
        word = level.upper()
        if word not in _TO_PYTHON:
            raise ValueError(f"unrecognised value for level: {level[:40]}")
        if any(not name or len(name) > 200 or not name.isprintable() for name in names):
            raise ValueError("package must be the name of a logger")
        return dict.fromkeys(names or self._tracked, word)

    def apply(self, levels: Mapping[str, str]) -> None:
        """Set checked levels."""
        for name, word in levels.items():
            if word in _TO_PYTHON:
                self._tracked[name] = None
                logging.getLogger(name).setLevel(_TO_PYTHON[word])
