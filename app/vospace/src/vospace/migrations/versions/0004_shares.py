"""Sizes of requests, and indexes by which a user's part of the table is found without looking at all of it."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("ALTER TABLE vospace.job ADD COLUMN size bigint NOT NULL DEFAULT 0")
    op.execute(
        "CREATE INDEX job_waiting ON vospace.job (owner)"
        " WHERE phase IN ('PENDING', 'QUEUED', 'HELD', 'SUSPENDED')"
    )
    op.execute("CREATE INDEX job_large ON vospace.job (owner) INCLUDE (size) WHERE size >= 65536")
