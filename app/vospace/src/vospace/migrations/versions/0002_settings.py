"""Settings that operators change while the service runs."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE vospace.setting (
            name       varchar(255) PRIMARY KEY,
            value      text NOT NULL,
            changed    timestamptz NOT NULL DEFAULT clock_timestamp(),
            changed_by varchar(128)
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE vospace.setting")
