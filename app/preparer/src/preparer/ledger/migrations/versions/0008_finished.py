"""What has come to its end is counted by the hour."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the index; the first revision does, too, where it has just made the tables."""
    op.create_index(
        "tasks_finished",
        "tasks",
        ["finished"],
        postgresql_where=sa.text("finished IS NOT NULL"),
        if_not_exists=True,
    )
