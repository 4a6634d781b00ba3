"""A job table of the test's own, and an HTTP source that misbehaves on demand."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import vospace.migrations
from voservice import database
from vospace.uws.notices import Notices
from vospace.uws.store import JobStore

MIGRATIONS = Path(vospace.migrations.__file__).parent


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    url = make_url(database_url).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        await connection.run_sync(database._run(MIGRATIONS))
        await connection.commit()
    yield engine
    await engine.dispose()


@pytest.fixture
def store(engine: AsyncEngine) -> JobStore:
    return JobStore(engine)


@pytest.fixture
async def make_notices(database_url: str) -> AsyncIterator[Callable[[], Notices]]:
    made: list[Notices] = []

    def make() -> Notices:
        notices = Notices(lambda: asyncpg.connect(database_url))
        made.append(notices)
        return notices

    yield make
    for notices in made:
        await notices.stop()


@dataclass
class Source:
    """An HTTP server with files in memory; `script` holds what it does wrong, one entry for a request."""

    base: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    script: list[str] = field(default_factory=list)
    requests: list[web.Request] = field(default_factory=list)
    etag: str | None = '"v1"'
    digest: str | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        step, _, argument = (self.script.pop(0) if self.script else "serve").partition(":")
        if step == "status":
            return web.Response(status=int(argument))
        if step == "redirect":
            return web.Response(status=302, headers={"Location": argument})
        body = self.files.get(request.path)
        if body is None:
            return web.Response(status=404)
        headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        if self.etag is not None:
            headers["ETag"] = self.etag
        if self.digest is not None:
            headers["Digest"] = self.digest
        start, status = 0, 200
        wanted = request.headers.get("Range")
        if wanted is not None and step != "ignore-range" and request.headers.get("If-Range") == self.etag:
            start, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
            if start >= len(body):
                return web.Response(status=416)
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = len(body) - start
        await response.prepare(request)
        if step == "cut":
            await response.write(body[start : start + int(argument)])
            assert request.transport is not None
            request.transport.close()
            return response
        if step == "stall":
            await response.write(body[start : start + int(argument)])
            await self.gate.wait()
            return response
        await response.write(body[start:])
        return response

    def url(self, path: str) -> str:
        return f"{self.base}{path}"

    @staticmethod
    def md5_digest(body: bytes) -> str:
        return "md5=" + base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


@pytest.fixture
async def source() -> AsyncIterator[Source]:
    source = Source()
    app = web.Application()
    app.router.add_get("/{path:.*}", source.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    source.base = f"http://127.0.0.1:{port}"
    yield source
    source.gate.set()
    await runner.cleanup()
