"""Rows of the ledger, as they are written and read."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from voservice.content import Content
from vospace_client.terms import ON_TAPE

from preparer.ledger.tables import FileState, TaskState


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file of a request: size in bytes, checksums in lower-case hexadecimal.

    `rse` names the RSEs that may be asked for it, separated by commas; without, all of the site are.
    """

    did: str
    path: str
    target: str
    size: int | None = None
    md5: str | None = None
    adler32: str | None = None
    rse: str | None = None


@dataclass(frozen=True)
class NewTask:
    """A validated request; the lifetime is in seconds."""

    username: str
    subject: str
    approach: str
    content_hash: str
    files: Sequence[NewFile]
    credential: bytes | None = None
    credential_expires: datetime | None = None
    idempotency_key: str | None = None
    callback: str | None = None
    lifetime: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of staging one file."""

    number: int
    state: FileState
    bytes: int | None = None
    md5: str | None = None
    adler32: str | None = None
    fault: str | None = None
    detail: str | None = None
    rse: str | None = None


@dataclass(frozen=True, slots=True)
class BusyWorker:
    """A worker that holds tasks: their number, and the time at which the first of its leases runs out."""

    name: str
    tasks: int
    lease: datetime


@dataclass(frozen=True, slots=True)
class Task:
    """A row of the table `tasks`, with its columns in their order."""

    id: uuid.UUID
    username: str
    subject: str
    approach: str
    state: TaskState
    info: str | None
    created: datetime
    started: datetime | None
    finished: datetime | None
    credential: bytes | None
    credential_expires: datetime | None
    idempotency_key: str | None
    content_hash: str
    files: int
    files_done: int
    files_failed: int
    bytes_total: int | None
    bytes_done: int
    cancel: bool
    published: bool
    worker: str | None
    lease: datetime | None
    attempts: int
    job: str | None
    job_event: int
    callback: str | None
    callback_attempts: int
    callback_next: datetime | None
    callback_status: str | None
    lifetime: int | None
    expires: datetime | None
    not_before: datetime | None
    trace: str | None
    receipt: bool

    @classmethod
    def of(cls, row: Sequence[Any]) -> Self:
        """Return a selected row of `tasks`."""
        return cls(*row)


@dataclass(frozen=True, slots=True)
class File:
    """A row of the table `files`, with its columns in their order."""

    task: uuid.UUID
    number: int
    did: str
    path: str
    target: str
    size: int | None
    md5: str | None
    adler32: str | None
    state: FileState
    attempts: int
    bytes: int | None
    found_md5: str | None
    found_adler32: str | None
    fault: str | None
    detail: str | None
    finished: datetime | None
    rse: str | None
    tape_since: datetime | None
    not_before: datetime | None

    @property
    def shown(self) -> FileState:
        """The state as others see it."""
        on_tape = self.state == FileState.PENDING and self.fault == ON_TAPE
        return FileState.STAGING_FROM_TAPE if on_tape else self.state

    @classmethod
    def of(cls, row: Sequence[Any]) -> Self:
        """Return a selected row of `files`."""
        return cls(*row)


@dataclass(frozen=True, slots=True)
class Hour:
    """What the tasks that ended in an hour came to; files that were there already are among those staged."""

    begin: datetime
    tasks: int
    staged: int
    failed: int
    bytes: int


def expected(file: NewFile | File) -> Content:
    """Return the content that the request states for a file."""
    return Content(file.size, file.md5, file.adler32)
