"""Core in the test's own process, with a ledger of its own and no broker, so that tasks stay where they are."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from unittest.mock import patch

import httpx
from cryptography.fernet import Fernet
from fastapi import FastAPI
from preparer.app import create_app
from preparer.ledger import MIGRATIONS
from voservice import database
from voservice.auth import Identity


class Verifier:
    """Knows everybody: a token is a user's name."""

    async def verify(self, token: str) -> Identity:
        return Identity(username=token, subject=token, issuer="http://issuer")


@asynccontextmanager
async def core(
    database_url: str, user: str | None = None, **settings: str
) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    """The application with *settings* by their environment names, and a client, with the token of *user* if given."""
    environment = {
        "DATABASE_URL": database_url,
        "CELERY_BROKER_URL": "amqp://preparer@127.0.0.1:1//",
        "PREPARER_CREDENTIAL_KEY": Fernet.generate_key().decode(),
    }
    with patch.dict(os.environ, environment | settings):
        app = create_app()
    await asyncio.to_thread(database.migrate, app.state.settings, MIGRATIONS)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False),
            base_url="http://core",
            headers={} if user is None else {"Authorization": f"Bearer {user}"},
            timeout=60,
        ) as client,
    ):
        app.state.context.verifier = Verifier()
        yield app, client
