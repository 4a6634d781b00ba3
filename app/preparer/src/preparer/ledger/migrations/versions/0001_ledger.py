"""The ledger's first schema."""

from alembic import op
from preparer.ledger.tables import metadata

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables. A later revision that changes them must first write this one out."""
    metadata.create_all(op.get_bind())
