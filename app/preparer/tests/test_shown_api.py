"""The page that shows the API, behind a proxy that takes a prefix away."""

from __future__ import annotations

import httpx
import pytest
from cryptography.fernet import Fernet
from preparer.app import create_app
from voservice.testing_docs import shown_api


async def test_the_api_is_shown_without_other_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://preparer@nowhere/preparer")
    monkeypatch.setenv("CELERY_BROKER_URL", "amqp://preparer@127.0.0.1:1//")
    monkeypatch.setenv("PREPARER_CREDENTIAL_KEY", Fernet.generate_key().decode())
    # As uvicorn has it when it is told of the prefix: the path is whole, and the application takes the prefix off.
    transport = httpx.ASGITransport(create_app(), root_path="/prepare-data")
    async with httpx.AsyncClient(transport=transport) as http:
        shown = await shown_api(http, httpx.URL("https://vo.example/prepare-data/docs"))
    assert "/v1/tasks" in shown["paths"]
    assert shown["servers"] == [{"url": "/prepare-data"}]
