"""The OpenAPI document is valid, and the service does what it says."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from cavern_double import CavernDouble
from cryptography.fernet import Fernet
from preparer.app import create_app
from preparer.ledger import MIGRATIONS
from voservice import database
from voservice.auth import TokenVerifier
from voservice.testing import database_url, postgres
from voservice.testing_api import answers_as_described, verify

__all__ = ["database_url", "postgres"]


async def test_the_api_is_as_its_document_describes_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no broker, so that tasks stay where they are."""
    double = web.AppRunner(CavernDouble({}, pulls=True).application(), shutdown_timeout=0.1)
    await double.setup()
    await web.TCPSite(double, "127.0.0.1", 0).start()
    away = f"http://127.0.0.1:{double.addresses[0][1]}"
    monkeypatch.setenv("CAVERN_API_URL", f"{away}/cavern")
    monkeypatch.setenv("ABS_URL_RSE_ROOT", f"{away}/rse")
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("CELERY_BROKER_URL", "amqp://preparer@127.0.0.1:1//")
    monkeypatch.setenv("PREPARER_CREDENTIAL_KEY", Fernet.generate_key().decode())
    monkeypatch.setenv("PREPARER_MAX_ACTIVE", "1000000")
    monkeypatch.setenv("PREPARER_MAX_RATE", "1000000")
    monkeypatch.setattr(TokenVerifier, "verify", verify)
    app = create_app()
    await asyncio.to_thread(database.migrate, app.state.settings, MIGRATIONS)
    await answers_as_described(app, "/openapi.json", {"Authorization": "Bearer ada"})
    await double.cleanup()
