"""What was unavailable, of rows that failed for that reason."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute("ALTER TABLE vospace.bulk_row ADD COLUMN away varchar(6)")
