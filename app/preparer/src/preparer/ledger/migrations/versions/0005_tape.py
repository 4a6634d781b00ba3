"""Files on tape are waited for by the ledger's clock, and a task that waits for nothing else is nobody's meanwhile."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the columns; the first revision does, too, where it has just made the tables."""
    for table, name in (("files", "tape_since"), ("files", "not_before"), ("tasks", "not_before")):
        op.add_column(table, sa.Column(name, sa.DateTime(timezone=True)), if_not_exists=True)
