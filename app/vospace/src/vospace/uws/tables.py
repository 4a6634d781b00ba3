"""Tables of the job store, in PostgreSQL schema `vospace`."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

SCHEMA = "vospace"
PHASE_CHANNEL = "vospace_job"
ROWS_CHANNEL = "vospace_rows"
LARGE = 65_536
"""Bytes of a request from which on it counts as large."""
SETTING_CHANNEL = "vospace_setting"

metadata = MetaData(schema=SCHEMA)

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

bulk_row = Table(
    "bulk_row",
    metadata,
    Column("job_id", String(16), ForeignKey(job.c.id, ondelete="CASCADE"), primary_key=True),
    Column("row", Integer, primary_key=True, comment="position in the request, from 0"),
    Column("source", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("size", BigInteger, comment="expected, bytes"),
    Column("md5", String(32), comment="expected before, found after the end; hex"),
    Column("adler32", String(8), comment="as md5"),
    Column("state", String(9), nullable=False, server_default=text("'PENDING'")),
    Column("event", Integer, comment="number in order of finishing, from 1"),
    Column("bytes", BigInteger),
    Column("fault", String(32)),
    Column("detail", Text),
    Column("transient", Boolean, nullable=False, server_default=text("false")),
    Column("away", String(6), comment="what did not answer: 'source', or NULL"),
    Column("stamp", ARRAY(BigInteger), comment="inode, size, mtime of the file about to appear"),
    Column("started", DateTime(timezone=True)),
    Column("ended", DateTime(timezone=True)),
    Index("bulk_row_by_event", "job_id", "event", unique=True, postgresql_where=text("event IS NOT NULL")),
    Index("bulk_row_open", "job_id", "row", postgresql_where=text("event IS NULL")),
)

setting = Table(
    "setting",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("value", Text, nullable=False),
    Column("changed", DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
    Column("changed_by", String(128)),
)
