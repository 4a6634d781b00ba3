"""Levels of logs that operators set, for all processes. OpenCADC's service does not mind a table more."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table."""
    op.execute(
        "CREATE TABLE mapping.log_levels ("
        "logger varchar(200) NOT NULL PRIMARY KEY, level varchar(8) NOT NULL, changed_by varchar(255) NOT NULL,"
        " changed timestamptz NOT NULL DEFAULT clock_timestamp())"
    )
