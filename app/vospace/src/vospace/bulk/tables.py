"""The table of the rows of bulk pulls."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from vospace.tables import metadata
from vospace.uws.tables import job

ROWS_CHANNEL = "vospace_rows"
"""Notices of the id of a job of which rows have ended."""

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
