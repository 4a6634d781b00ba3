"""The table of what operators have set."""

from __future__ import annotations

from sqlalchemy import Column, DateTime, String, Table, Text, text

from vospace.tables import metadata

SETTING_CHANNEL = "vospace_setting"
"""Notices, empty, of a change."""

setting = Table(
    "setting",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("value", Text, nullable=False),
    Column("changed", DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
    Column("changed_by", String(128)),
)
