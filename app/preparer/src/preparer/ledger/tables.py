"""Tables of the ledger."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    Uuid,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB


class TaskState(StrEnum):
    """State of a task. The last four are final."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    LOST = "LOST"


class FileState(StrEnum):
    """State of a file. All but the first two are final."""

    PENDING = "PENDING"
    # As it is shown: a pending file that its RSE is bringing from tape.
    STAGING_FROM_TAPE = "STAGING_FROM_TAPE"
    STAGED = "STAGED"
    PRESENT = "PRESENT"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    RELEASED = "RELEASED"


ACTIVE = (TaskState.QUEUED, TaskState.RUNNING)
GOOD = (FileState.STAGED, FileState.PRESENT)

metadata = MetaData()
now = func.clock_timestamp()
transaction_time = func.now()
"""When the transaction began: unlike with `now`, an index serves for comparisons with it."""


class _State(TypeDecorator[StrEnum]):
    """A state, stored as text."""

    impl = Text
    cache_ok = True

    def __init__(self, states: type[StrEnum]) -> None:
        """Convert into members of *states*."""
        super().__init__()
        self.states = states

    def process_result_value(self, value: Any | None, dialect: Dialect) -> StrEnum | None:
        """Convert a text from the database into a state."""
        return None if value is None else self.states(value)


def _time(name: str) -> Column[datetime]:
    return Column(name, DateTime(timezone=True))


tasks = Table(
    "tasks",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("username", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("approach", Text, nullable=False),
    Column("state", _State(TaskState), nullable=False, server_default=TaskState.QUEUED),
    Column("info", Text),
    Column("created", DateTime(timezone=True), nullable=False, server_default=now),
    _time("started"),
    _time("finished"),
    Column("credential", LargeBinary),
    _time("credential_expires"),
    Column("idempotency_key", Text),
    Column("content_hash", Text, nullable=False),
    Column("files", Integer, nullable=False),
    Column("files_done", Integer, nullable=False, server_default="0"),
    Column("files_failed", Integer, nullable=False, server_default="0"),
    Column("bytes_total", BigInteger),
    Column("bytes_done", BigInteger, nullable=False, server_default="0"),
    Column("cancel", Boolean, nullable=False, server_default=text("false")),
    Column("published", Boolean, nullable=False, server_default=text("false")),
    Column("worker", Text),
    _time("lease"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    # URL of the bulk job at Cavern, for another worker to resume instead of starting a second one.
    Column("job", Text),
    Column("job_event", BigInteger, nullable=False, server_default="0"),
    Column("callback", Text),
    Column("callback_attempts", Integer, nullable=False, server_default="0"),
    _time("callback_next"),
    Column("callback_status", Text),
    Column("lifetime", Integer),
    _time("expires"),
    # Until then it waits for files on tape alone, and no worker claims it.
    _time("not_before"),
    # The request's span, which staging continues, whichever process does it.
    Column("trace", Text),
    # Whether its receipt is written.
    Column("receipt", Boolean, nullable=False, server_default=text("false")),
    Index("tasks_user", "username", "created"),
    Index("tasks_created", "created"),
    Index("tasks_state", "state"),
    Index(
        "tasks_key",
        "username",
        "idempotency_key",
        unique=True,
        postgresql_where=text("idempotency_key IS NOT NULL"),
    ),
    Index(
        "tasks_same",
        "username",
        "content_hash",
        unique=True,
        postgresql_where=text("state IN ('QUEUED', 'RUNNING') AND NOT cancel"),
    ),
    Index("tasks_active", "state", "created", postgresql_where=text("state IN ('QUEUED', 'RUNNING')")),
    Index("tasks_active_of_user", "username", postgresql_where=text("state IN ('QUEUED', 'RUNNING')")),
    Index("tasks_unpublished", "created", postgresql_where=text("NOT published")),
    Index("tasks_expiring", "expires", postgresql_where=text("expires IS NOT NULL")),
    Index("tasks_callbacks", "callback_next", postgresql_where=text("callback_next IS NOT NULL")),
    Index("tasks_finished", "finished", postgresql_where=text("finished IS NOT NULL")),
    Index(
        "tasks_without_receipt",
        "finished",
        postgresql_where=text("NOT receipt AND finished IS NOT NULL"),
    ),
    Index("tasks_with_job", "finished", postgresql_where=text("job IS NOT NULL")),
)

# Written out in statements: with parameters in its place the planner cannot tell that the partial indexes serve.
IS_ACTIVE = tasks.c.state.in_([literal_column(f"'{state}'") for state in ACTIVE])

files = Table(
    "files",
    metadata,
    Column("task", Uuid, ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("did", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("size", BigInteger),
    Column("md5", Text),
    Column("adler32", Text),
    Column("state", _State(FileState), nullable=False, server_default=FileState.PENDING),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("bytes", BigInteger),
    Column("found_md5", Text),
    Column("found_adler32", Text),
    Column("fault", Text),
    Column("detail", Text),
    _time("finished"),
    # The RSEs that may be asked for it, separated by commas; once it is staged, the one that it came from.
    Column("rse", Text),
    # Since when it is brought from tape, and when the RSE is to be asked again.
    _time("tape_since"),
    _time("not_before"),
    Index("files_pending", "task", "number", postgresql_where=text("state = 'PENDING'")),
)

events = Table(
    "events",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("task", Uuid, ForeignKey("tasks.id", ondelete="CASCADE"), nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=now),
    Column("kind", Text, nullable=False),
    Column("detail", JSONB, nullable=False, server_default=text("'{}'")),
    Index("events_task", "task", "id"),
)
