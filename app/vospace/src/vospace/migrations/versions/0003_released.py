"""A job that is given back unfinished says so, so that nobody looks for it who hears of jobs that begin."""

from alembic import op

revision = "0003"
down_revision = "0002"

NOTICE = """
    CREATE OR REPLACE FUNCTION vospace.job_notice() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'DELETE' THEN
            PERFORM pg_notify('vospace_job', OLD.id || ' DELETED ' || OLD.kind);
        ELSIF TG_OP = 'INSERT' OR OLD.phase <> NEW.phase OR OLD.execution_duration <> NEW.execution_duration
              OR NEW.lease_until <= clock_timestamp() THEN
            PERFORM pg_notify('vospace_job', NEW.id || ' ' || {phase} || ' ' || NEW.kind);
        END IF;
        RETURN NULL;
    END
    $$
"""
RELEASED = (
    "CASE WHEN NEW.phase = 'EXECUTING' AND NEW.lease_until <= clock_timestamp()"
    " THEN 'RELEASED' ELSE NEW.phase END"
)


def upgrade() -> None:
    op.execute(NOTICE.format(phase=RELEASED))


def downgrade() -> None:
    op.execute(NOTICE.format(phase="NEW.phase"))
