"""The words of a bulk pull."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from vospace.transfers.expected import Expected


class IfExists(StrEnum):
    """What to do where the target is already there."""

    VERIFY = "verify"
    """Skip it if its checksum is the one asked for, or that of the bytes that were fetched; else replace it."""
    REPLACE = "replace"
    FAIL = "fail"


class RowState(StrEnum):
    COMPLETED = "COMPLETED"
    SKIPPED = "SKIPPED"
    ERROR = "ERROR"
    ABORTED = "ABORTED"


@dataclass(frozen=True, slots=True)
class Row:
    """One file to fetch; `index` is its position in the request. `stamp` is what an earlier run was about to place."""

    index: int
    source: str
    target: str
    expected: Expected
    stamp: list[int] | None = None


@dataclass(slots=True)
class Finished:
    """How one row ended."""

    index: int
    state: RowState
    started: float
    bytes: int | None = None
    md5: str | None = None
    adler32: str | None = None
    fault: str | None = None
    detail: str | None = None
    transient: bool = False
    ended: float = 0.0

    def __post_init__(self) -> None:
        self.ended = self.ended or time.time()


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


Line = dict[str, Any]
"""One line of the results."""
