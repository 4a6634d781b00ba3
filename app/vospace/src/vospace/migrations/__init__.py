"""Alembic revisions of schema `vospace`."""
