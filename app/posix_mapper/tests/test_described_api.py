"""The OpenAPI document is valid, and the service does what it says."""

from __future__ import annotations

import asyncio
from pathlib import Path

import posix_mapper
import pytest
from posix_mapper.app import create_app
from posix_mapper.config import PosixMapperSettings
from voservice import database
from voservice.auth import TokenVerifier
from voservice.testing import database_url, postgres
from voservice.testing_api import answers_as_described, verify

__all__ = ["database_url", "postgres"]

MIGRATIONS = Path(posix_mapper.__file__).parent / "migrations"


async def test_the_api_is_as_its_document_describes_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("POSIX_MAPPER_OPERATORS", "ada")
    monkeypatch.setattr(TokenVerifier, "verify", verify)
    await asyncio.to_thread(database.migrate, PosixMapperSettings(), MIGRATIONS)
    headers = {"Authorization": "Bearer ada"}
    await answers_as_described(create_app(), "/src/posix-mapper/openapi.json", headers)
