"""A site for the tests of the page: the project's own issuer by HTTP, and the API with its ledger."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
import uvicorn
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi import FastAPI
from iam.app import create_app as create_issuer
from preparer.app import create_app
from preparer.ledger import MIGRATIONS
from voservice import database

URL = "https://core.example"
PAGE = f"{URL}/prepare-data/ui"
TLS = ssl.create_default_context()
"""Of all clients: to load the authorities takes longer than most tests."""
SAME = {"Sec-Fetch-Site": "same-origin", "Origin": URL, "Accept": "text/html"}
"""Headers of a form of the page."""


def signing_key() -> str:
    """Return a new key for the issuer."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def configure_issuer(directory: Path, url: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the issuer's files, and name them in the environment."""
    for secret in ("cli", "page"):
        (directory / secret).write_text(f"{secret}-secret")
    clients: list[dict[str, Any]] = [
        {"client_id": "cli", "secret_file": str(directory / "cli"), "grants": ["password"]},
        {
            "client_id": "page",
            "secret_file": str(directory / "page"),
            "grants": ["authorization_code", "refresh_token"],
            "redirect_uris": [f"{PAGE}/signed-in"],
        },
    ]
    users = {"ada": {"groups": ["survey"]}, "olga": {"groups": ["operators"]}}
    (directory / "iam.json").write_text(json.dumps({"clients": clients, "users": users}))
    environment = {
        "OIDC_ISSUER": url,
        "OIDC_AUDIENCES": URL,
        "PUBLIC_URL": URL,
        "IAM_CLIENTS_FILE": str(directory / "iam.json"),
        "IAM_SIGNING_KEY": key,
        "IAM_USER_PASSWORD": "letmein",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@asynccontextmanager
async def issuer(directory: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """Run the issuer; its URL ends in a slash, as that of SKA IAM does."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/iam/"
        configure_issuer(directory, url, key, monkeypatch)
        server = uvicorn.Server(uvicorn.Config(create_issuer(), log_config=None, access_log=False))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            assert not serving.done(), "the issuer does not start"
            await asyncio.sleep(0.01)
        try:
            yield url
        finally:
            server.should_exit = True
            await serving


@dataclass
class Site:
    """The issuer's URL and the API's application, which is running."""

    issuer: str
    app: FastAPI

    def browser(self, **options: Any) -> httpx.AsyncClient:
        """Return a browser without cookies, which asks for pages."""
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False, root_path="/prepare-data")
        return httpx.AsyncClient(
            transport=transport, base_url=URL, headers={"Accept": "text/html"}, **options
        )

    async def sign_in_code(self, user: str) -> str:
        """Return a code with which the user signs in at the issuer."""
        async with httpx.AsyncClient(verify=TLS) as client:
            answer = await client.post(
                f"{self.issuer}sign-in-codes",
                data={"username": user, "password": "letmein"},
                auth=("cli", "cli-secret"),
            )
        code: str = answer.json()["code"]
        return code

    async def at_issuer(self, url: str, user: str = "ada") -> str:
        """Sign a user in on the issuer's page at *url*; returns where the browser is sent then."""
        form = dict(parse_qsl(urlsplit(url).query)) | {"sign_in_code": await self.sign_in_code(user)}
        async with httpx.AsyncClient(verify=TLS) as client:
            shown = await client.get(url)
            action = re.search('action="([^"]+)"', shown.text)
            assert action, shown.text
            answer = await client.post(action[1], data=form)
        assert answer.status_code == 303, answer.text
        return answer.headers["Location"]

    async def sign_in(
        self, browser: httpx.AsyncClient, user: str = "ada", place: str = "/tasks"
    ) -> httpx.Response:
        """Sign a user in; returns the answer with which the session begins."""
        leaving = await browser.get("/prepare-data/ui/sign-in", params={"next": place})
        assert leaving.status_code == 303, leaving.text
        return await browser.get(await self.at_issuer(leaving.headers["Location"], user))


@asynccontextmanager
async def site(
    directory: Path, database_url: str, key: str, monkeypatch: pytest.MonkeyPatch, **settings: str
) -> AsyncIterator[Site]:
    """Run the issuer and the API; there is no broker, so that tasks stay where they are."""
    async with issuer(directory, key, monkeypatch) as url:
        environment = {
            "DATABASE_URL": database_url,
            "CELERY_BROKER_URL": "amqp://preparer@127.0.0.1:1//",
            "CAVERN_API_URL": "http://127.0.0.1:9/cavern",
            "API_ROOT_PATH": "/prepare-data",
            "PREPARER_CREDENTIAL_KEY": Fernet.generate_key().decode(),
            "PREPARER_PAGE_CLIENT_ID": "page",
            "PREPARER_PAGE_CLIENT_SECRET": "page-secret",
            "PREPARER_OPERATOR_GROUPS": "operators",
            **settings,
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        app = create_app()
        await asyncio.to_thread(database.migrate, app.state.settings, MIGRATIONS)
        async with app.router.lifespan_context(app):
            yield Site(url, app)
