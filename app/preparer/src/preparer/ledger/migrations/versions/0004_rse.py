"""A file is known by the RSE that it comes from."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the column; the first revision does, too, where it has just made the tables."""
    op.add_column("files", sa.Column("rse", sa.Text), if_not_exists=True)
