"""A user's unfinished tasks, and ended ones that have left a job behind, are found without reading others."""

from alembic import op
from sqlalchemy import text

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the indexes; the first revision does, too, where it has just made the tables."""
    op.create_index(
        "tasks_active_of_user",
        "tasks",
        ["username"],
        postgresql_where=text("state IN ('QUEUED', 'RUNNING')"),
        if_not_exists=True,
    )
    op.create_index(
        "tasks_with_job", "tasks", ["finished"], postgresql_where=text("job IS NOT NULL"), if_not_exists=True
    )
