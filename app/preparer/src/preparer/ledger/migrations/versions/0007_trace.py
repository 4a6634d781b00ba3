"""Staging continues the trace of the request."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the column; the first revision does, too, where it has just made the tables."""
    op.add_column("tasks", sa.Column("trace", sa.Text), if_not_exists=True)
