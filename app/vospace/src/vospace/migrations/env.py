"""Run by Alembic with the connection that the service hands over (voservice.database.migrate)."""

from alembic import context
from sqlalchemy import Connection, inspect
from sqlalchemy.schema import CreateSchema

import vospace.bulk.tables
import vospace.control.tables
import vospace.uws.tables  # noqa: F401 - each adds its tables to metadata
from vospace.tables import SCHEMA, metadata


def run(connection: Connection) -> None:
    # Asked first: CREATE SCHEMA IF NOT EXISTS wants a right on the database that the role may not have.
    if SCHEMA not in inspect(connection).get_schema_names():
        connection.execute(CreateSchema(SCHEMA))
        connection.commit()
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table_schema=SCHEMA,
        include_schemas=True,
    )
    with context.begin_transaction():
        context.run_migrations()


run(context.config.attributes["connection"])
