"""Users of the page have sessions."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make their table."""
    op.create_table(
        "page_sessions",
        sa.Column("id", sa.LargeBinary, primary_key=True),
        sa.Column("username", sa.Text, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column(
            "created",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.func.clock_timestamp(),
        ),
        sa.Column("expires", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("page_sessions_user", "page_sessions", ["username", "created"])
    op.create_index("page_sessions_expires", "page_sessions", ["expires"])
