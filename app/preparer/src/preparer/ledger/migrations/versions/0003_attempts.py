"""Failed tries are counted with their file; what each one said is in the log alone."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Drop the table that was only ever written."""
    op.drop_table("attempts", if_exists=True)
