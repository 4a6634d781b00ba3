"""Users, groups and the sequences of their uids and gids, as OpenCADC's service makes them."""

from alembic import op
from posix_mapper.config import PosixMapperSettings
from voservice.config import load

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make what is missing: a database that OpenCADC's service began has all of it."""
    settings = load(PosixMapperSettings)
    op.execute(
        "CREATE TABLE IF NOT EXISTS mapping.users ("
        "uid integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, username varchar(255) NOT NULL UNIQUE)"
    )
    op.execute(
        "CREATE TABLE IF NOT EXISTS mapping.groups ("
        "gid integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, groupuri varchar(255) NOT NULL UNIQUE)"
    )
    op.execute(
        f"CREATE SEQUENCE IF NOT EXISTS mapping.users_uid_seq1 START {settings.posix_mapper_uid_start}"
    )
    op.execute(
        f"CREATE SEQUENCE IF NOT EXISTS mapping.groups_gid_seq1 START {settings.posix_mapper_gid_start}"
    )
    op.execute(
        "CREATE TABLE IF NOT EXISTS mapping.modelversion ("
        "model varchar(32) NOT NULL PRIMARY KEY, version varchar(32) NOT NULL, lastmodified timestamp NOT NULL)"
    )
    op.execute(
        "INSERT INTO mapping.modelversion (model, version, lastmodified) VALUES ('posix-mapping', '0.1', now())"
        " ON CONFLICT DO NOTHING"
    )
