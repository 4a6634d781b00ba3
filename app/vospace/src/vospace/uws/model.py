"""The words of UWS 1.1 as types."""

from __future__ import annotations

import re
import secrets
import string
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from vospace_client.terms import ExecutionPhase


@dataclass(frozen=True, slots=True)
class Parameter:
    """One input of a job; a name may occur several times."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Result:
    """One output of a job: an id and where it is."""

    id: str
    href: str


@dataclass(frozen=True, slots=True)
class ErrorSummary:
    """Why a job failed. `message` starts with the name of the VOSpace fault and is the text of `/error`."""

    message: str
    transient: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one kind of job, in seconds; larger values are reduced to them (UWS 1.1 section 2.1.8)."""

    execution: int
    destruction: int


@dataclass(frozen=True, slots=True)
class Share:
    """Limits of one user's jobs."""

    waiting: int
    """Jobs that have not begun."""
    size: int
    """Bytes of large requests that are kept."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job as the database holds it. Times are UTC; durations are seconds, 0 is without limit."""

    id: str
    kind: str
    owner: str | None
    phase: ExecutionPhase
    creation_time: datetime
    destruction_time: datetime
    execution_duration: int
    caller: dict[str, Any] | None = None
    run_id: str | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    quote: datetime | None = None
    parameters: tuple[Parameter, ...] = ()
    results: tuple[Result, ...] = ()
    error: ErrorSummary | None = None
    job_info: str | None = None
    job_info_type: str | None = None
    checkpoint: dict[str, Any] = field(default_factory=dict)
    attempt: int = 0
    size: int = 0
    """Bytes of the request."""
    trace: str | None = None
    """The request's span, which the run continues."""

    def parameter(self, name: str) -> str | None:
        """The first parameter of that name; names are case-insensitive (UWS 1.1 section 2.2.2)."""
        wanted = name.lower()
        return next((p.value for p in self.parameters if p.name.lower() == wanted), None)

    def result(self, result_id: str) -> Result | None:
        return next((r for r in self.results if r.id == result_id), None)


@dataclass(frozen=True, slots=True)
class JobReference:
    """One entry of a job list."""

    id: str
    owner: str | None
    run_id: str | None
    phase: ExecutionPhase
    creation_time: datetime


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a run."""

    phase: ExecutionPhase = ExecutionPhase.COMPLETED
    results: tuple[Result, ...] = ()
    error: ErrorSummary | None = None


class JobFailure(Exception):
    """Raised by a runner: the job ends in ERROR with this message (fault name first)."""

    def __init__(self, message: str, *, transient: bool = False, results: tuple[Result, ...] = ()) -> None:
        super().__init__(message)
        self.summary = ErrorSummary(message, transient)
        self.results = results


_LETTERS = string.ascii_lowercase
_JOB_ID = re.compile(r"[a-z][a-z0-9]{15}")


def new_job_id() -> str:
    """16 of `[a-z0-9]`, the first a letter, as OpenCADC's services make them; 82 random bits."""
    alphabet = _LETTERS + string.digits
    return secrets.choice(_LETTERS) + "".join(secrets.choice(alphabet) for _ in range(15))


def is_job_id(text: str) -> bool:
    return _JOB_ID.fullmatch(text) is not None


def now() -> datetime:
    return datetime.now(UTC)


def format_time(moment: datetime) -> str:
    """UTC with milliseconds and `Z` (UWS 1.1 section 2.2.3)."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def parse_time(text: str) -> datetime:
    """An ISO 8601 date or time; without zone it is UTC. Raises ValueError."""
    moment = datetime.fromisoformat(text.strip())
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError as exc:
        raise ValueError(str(exc)) from exc
