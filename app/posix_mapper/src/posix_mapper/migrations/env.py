"""Runs migrations on the connection that the service hands over."""

from alembic import context
from sqlalchemy import inspect, text

connection = context.config.attributes["connection"]
# The deployment makes the schema and lets the service own that alone.
if not inspect(connection).has_schema("mapping"):
    connection.execute(text("CREATE SCHEMA mapping"))
context.configure(connection=connection, version_table="alembic_version", version_table_schema="mapping")
with context.begin_transaction():
    context.run_migrations()
