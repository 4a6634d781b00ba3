"""The table of jobs."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from vospace.tables import metadata

PHASE_CHANNEL = "vospace_job"
"""Notices of the id, the phase and the kind of a job that is new, begins or ends, is DELETED, or is RELEASED."""
LARGE = 65_536
"""Bytes of a request from which on it counts as large."""

job = Table(
    "job",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("owner", String(128), comment="user name; null: anonymous"),
    Column("caller", JSONB, comment="who the job acts as: user name, issuer, groups; never a credential"),
    Column("run_id", Text),
    Column("phase", String(16), nullable=False),
    Column(
        "creation_time", DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")
    ),
    Column("start_time", DateTime(timezone=True)),
    Column("end_time", DateTime(timezone=True)),
    Column("quote", DateTime(timezone=True)),
    Column("execution_duration", Integer, nullable=False, comment="s; 0: no limit"),
    Column("destruction_time", DateTime(timezone=True), nullable=False),
    Column("parameters", JSONB, nullable=False, server_default=text("'[]'"), comment="[[name, value], ...]"),
    Column("results", JSONB, nullable=False, server_default=text("'[]'"), comment="[[id, href], ...]"),
    Column("error_message", Text),
    Column("error_transient", Boolean, nullable=False, server_default=text("false")),
    Column("job_info", Text),
    Column("job_info_type", Text),
    Column(
        "checkpoint", JSONB, nullable=False, server_default=text("'{}'"), comment="what a resumed run needs"
    ),
    Column("queue", BigInteger, Identity(always=False), nullable=False, comment="first in, first out"),
    Column("worker", String(32), comment="process that holds the lease"),
    Column("lease_until", DateTime(timezone=True), comment="null: nobody works on it"),
    Column(
        "attempt", Integer, nullable=False, server_default=text("0"), comment="starts since the last progress"
    ),
    Column("size", BigInteger, nullable=False, server_default=text("0"), comment="bytes of the request"),
    Column("trace", Text, comment="span of the request, which the run continues"),
    Index("job_by_owner", "owner", "kind", "creation_time"),
    Index(
        "job_waiting",
        "owner",
        postgresql_where=text("phase IN ('PENDING', 'QUEUED', 'HELD', 'SUSPENDED')"),
    ),
    Index("job_large", "owner", postgresql_include=["size"], postgresql_where=text(f"size >= {LARGE}")),
    Index("job_by_destruction", "destruction_time"),
    Index(
        "job_to_run",
        "queue",
        postgresql_where=text("phase IN ('QUEUED', 'EXECUTING', 'SUSPENDED')"),
    ),
)
