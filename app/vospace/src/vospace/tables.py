"""The database's schema, to which each part of the service adds the tables that it owns."""

from __future__ import annotations

from sqlalchemy import MetaData

SCHEMA = "vospace"
metadata = MetaData(schema=SCHEMA)
