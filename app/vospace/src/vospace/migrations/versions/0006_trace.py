"""The run of a job continues the trace of its request."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute("ALTER TABLE vospace.job ADD COLUMN trace text")
