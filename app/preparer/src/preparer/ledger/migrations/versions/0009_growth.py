"""What is asked of a ledger with a million ended tasks has indexes, and which tasks lack a receipt is known."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add column and indexes; the first revision does, too, where it has just made the tables."""
    # All that ended longer ago than receipts are written for; a constant default rewrites no rows.
    op.add_column(
        "tasks",
        sa.Column("receipt", sa.Boolean, nullable=False, server_default=sa.true()),
        if_not_exists=True,
    )
    op.execute(
        "UPDATE tasks SET receipt = false WHERE receipt AND (finished IS NULL OR finished > now() - interval '1 day'"
        " AND NOT EXISTS (SELECT FROM events WHERE task = tasks.id AND kind = 'receipt' AND at >= tasks.finished))"
    )
    op.alter_column("tasks", "receipt", server_default=sa.false())
    op.create_index(
        "tasks_without_receipt",
        "tasks",
        ["finished"],
        postgresql_where=sa.text("NOT receipt AND finished IS NOT NULL"),
        if_not_exists=True,
    )
    op.create_index("tasks_created", "tasks", ["created"], if_not_exists=True)
    op.create_index("tasks_state", "tasks", ["state"], if_not_exists=True)
