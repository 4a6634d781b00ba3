"""The ledger: requests and the state of every file, in PostgreSQL. It is the single source of truth."""

from __future__ import annotations

from pathlib import Path

from preparer.ledger.aftercare import Aftercare
from preparer.ledger.leases import Leases
from preparer.ledger.outbox import Outbox
from preparer.ledger.progress import Progress
from preparer.ledger.requests import KeyReused, Requests, SameUnderWay
from preparer.ledger.rows import File, NewFile, NewTask, Outcome, Task, expected
from preparer.ledger.statistics import Statistics
from preparer.ledger.tables import ACTIVE, GOOD, FileState, TaskState

__all__ = [
    "ACTIVE",
    "GOOD",
    "MIGRATIONS",
    "File",
    "FileState",
    "KeyReused",
    "Ledger",
    "NewFile",
    "NewTask",
    "Outcome",
    "SameUnderWay",
    "Task",
    "TaskState",
    "expected",
]

MIGRATIONS = Path(__file__).parent / "migrations"


class Ledger(Requests, Outbox, Leases, Progress, Aftercare, Statistics):
    """All queries of the ledger, each of which is one transaction."""
