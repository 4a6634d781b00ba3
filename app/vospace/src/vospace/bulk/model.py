"""Vocabulary of bulk pulls."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from voservice.content import UNKNOWN, Content
from vospace_client.terms import Unavailable

from vospace.models.errors import InvalidArgument
from vospace.uws.service import Checks


class IfExists(StrEnum):
    """Action if the target exists."""

    VERIFY = "verify"
    """Skip it if its checksum is the requested one, or that of the fetched bytes; otherwise replace it."""
    REPLACE = "replace"
    FAIL = "fail"


MAX_CONCURRENCY = 256


def if_exists(value: object) -> IfExists:
    """Raises InvalidArgument."""
    try:
        return IfExists(str(value))
    except ValueError:
        raise InvalidArgument(f"if_exists must be {', '.join(IfExists)}") from None


def concurrency(value: object) -> int:
    """Return the number of files to fetch concurrently. Raises InvalidArgument."""
    if type(value) is not int or not 1 <= value <= MAX_CONCURRENCY:
        raise InvalidArgument(f"concurrency must be a number from 1 to {MAX_CONCURRENCY}")
    return value


def _concurrency_text(text: str) -> str:
    return str(concurrency(int(text) if text.isascii() and text.isdecimal() and len(text) < 4 else text))


PARAMETERS: Checks = {"if_exists": lambda text: if_exists(text).value, "concurrency": _concurrency_text}
"""Parameters of a bulk pull that may be changed before it starts, with their checks."""


class RowState(StrEnum):
    COMPLETED = "COMPLETED"
    SKIPPED = "SKIPPED"
    ERROR = "ERROR"
    ABORTED = "ABORTED"


@dataclass(frozen=True, slots=True)
class Row:
    """One file to fetch; `index` is its position in the request. `stamp` identifies the file that an earlier run was
    about to place.

    The `sources` are tried in order until one delivers.
    """

    index: int
    sources: list[str]
    target: str
    expected: Content
    stamp: list[int] | None = None


@dataclass(slots=True)
class Finished:
    """The result of one row."""

    index: int
    state: RowState
    started: float
    content: Content = UNKNOWN
    fault: str | None = None
    detail: str | None = None
    transient: bool = False
    away: Unavailable | None = None
    ended: float = 0.0
    source: str | None = None
    """The source that delivered."""

    def __post_init__(self) -> None:
        self.ended = self.ended or time.time()


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


Line = dict[str, Any]
"""One line of the results."""
