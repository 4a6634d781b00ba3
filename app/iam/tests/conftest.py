"""The issuer of the tests: its clients, its users, and a client of its HTTP interface."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from iam.app import create_app

ISSUER = "https://vo.example/iam"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
PAGE = "https://vo.example/prepare-data/ui/signed-in"


@pytest.fixture(scope="session")
def key() -> str:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


@pytest.fixture
def configured(tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Configure the issuer; return the file of its clients and users."""
    clients: list[dict[str, Any]] = [
        {"client_id": "cli", "grants": ["password"]},
        {
            "client_id": "prepare-data",
            "grants": ["client_credentials", EXCHANGE],
            "username": "admin",
            "groups": ["ops"],
            "reads_groups": True,
        },
        {
            "client_id": "page",
            "grants": ["authorization_code", "refresh_token"],
            "redirect_uris": [PAGE, "https://other.example/back?from=vo"],
        },
        {"client_id": "other", "grants": ["authorization_code"], "redirect_uris": [PAGE]},
    ]
    for client in clients:
        secret = "service" if client["client_id"] == "prepare-data" else client["client_id"]
        file = tmp_path / client["client_id"]
        file.write_text(f"{secret}-secret\n")
        client["secret_file"] = str(file)
    config = tmp_path / "iam.json"
    config.write_text(json.dumps({"clients": clients, "users": {"ada": {"groups": ["staff", "astro"]}}}))
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/iam_signing_key").write_text(key)
    monkeypatch.setenv("OIDC_ISSUER", ISSUER)
    monkeypatch.setenv("OIDC_AUDIENCES", "https://vo.example")
    monkeypatch.setenv("IAM_CLIENTS_FILE", str(config))
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path / "secrets"))
    monkeypatch.setenv("IAM_USER_PASSWORD", "letmein")
    return config


@pytest.fixture
async def http(configured: Path) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=create_app())
    async with httpx.AsyncClient(transport=transport, base_url="https://vo.example") as client:
        yield client
