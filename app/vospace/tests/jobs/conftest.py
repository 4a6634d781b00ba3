"""A job table of the test's own, and an HTTP source that misbehaves on demand."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import inspect
import json
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import vospace.migrations
from aiohttp import web
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from voservice import database
from voservice.notices import Notices
from voservice.testing import database_url, new_database, postgres
from vospace.bulk.tables import ROWS_CHANNEL
from vospace.control.tables import SETTING_CHANNEL
from vospace.uws import tables
from vospace.uws.store import JobStore

__all__ = ["database_url", "postgres"]
CHANNELS = (tables.PHASE_CHANNEL, ROWS_CHANNEL, SETTING_CHANNEL)
TLS = ssl.create_default_context()
"""Of all clients: to load the authorities takes longer than most tests."""
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
        notices = Notices(lambda: asyncpg.connect(database_url), CHANNELS)
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
    uploads: dict[str, bytes] = field(default_factory=dict)
    delay: float = 0.0
    script: list[str] = field(default_factory=list)
    requests: list[web.Request] = field(default_factory=list)
    etag: str | None = '"v1"'
    digest: str | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if self.delay:
            await asyncio.sleep(self.delay)
        if request.method == "PUT":
            self.uploads[request.path] = await request.read()
            return web.Response(status=201)
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


@pytest.fixture(scope="session")
def source_port() -> int:
    """Port of every test's source, which the service that they share is told of once."""
    return free_port()


@pytest.fixture
async def source(source_port: int) -> AsyncIterator[Source]:
    source = Source()
    app = web.Application(client_max_size=1 << 30)

    async def handle(request: web.Request) -> web.StreamResponse:
        return await source.handle(request)

    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", source_port, reuse_address=True).start()
    source.base = f"http://127.0.0.1:{source_port}"
    yield source
    source.gate.set()
    await runner.cleanup()


class Process:
    """A process that is not this one's child."""

    def __init__(self, pid: int) -> None:
        self._ended = select.poll()
        try:
            self._descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            self._descriptor = -1
        else:
            self._ended.register(self._descriptor, select.POLLIN)

    @property
    def alive(self) -> bool:
        return self._descriptor != -1 and not self._ended.poll(0)

    def send(self, number: signal.Signals) -> None:
        if self.alive:
            signal.pidfd_send_signal(self._descriptor, number)

    def wait(self) -> None:
        if self._descriptor != -1:
            self._ended.poll()
            os.close(self._descriptor)
            self._descriptor = -1


class Starter:
    """Starts the service in processes of their own."""

    def __init__(self) -> None:
        program = [sys.executable, str(Path(__file__).with_name("server.py"))]
        self._program = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, port: int, environment: dict[str, str], log: Path) -> Process:
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        order = {"port": port, "environment": environment, "log": str(log)}
        self._program.stdin.write(json.dumps(order) + "\n")
        self._program.stdin.flush()
        return Process(int(self._program.stdout.readline()))

    def close(self) -> None:
        self._program.communicate()


@pytest.fixture(scope="session")
def starter() -> Iterator[Starter]:
    starter = Starter()
    yield starter
    starter.close()


@dataclass
class Service:
    """The service in a process of its own, which may be killed and started again. What it is waited for takes as long
    as the machine has other work; pytest's time limit ends a test that hangs."""

    url: str
    root: Path
    port: int
    environment: dict[str, str]
    client: httpx.AsyncClient
    log: Path
    starter: Starter
    process: Process | None = None

    async def start(self) -> None:
        self.process = await asyncio.to_thread(self.starter.start, self.port, self.environment, self.log)
        while True:
            try:
                await self.client.get(f"{self.url}/nodes?limit=0")
                return
            except httpx.TransportError:
                assert self.process.alive, self.log.read_text()
                await asyncio.sleep(0.05)

    async def kill(self) -> None:
        """End it as a power cut would."""
        assert self.process is not None
        self.process.send(signal.SIGKILL)
        await asyncio.to_thread(self.process.wait)

    def file(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    async def submit(self, document: str, user: str = "ada", run: bool = True) -> str:
        """The URL of a new transfer job."""
        answer = await self.client.post(
            f"{self.url}/transfers{'?PHASE=RUN' if run else ''}",
            content=document,
            headers={"Content-Type": "text/xml", **self.as_user(user)},
        )
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    async def ended(self, job: str, user: str = "ada") -> str:
        """The last phase of a job, waited for."""
        while True:
            try:
                answer = await self.client.get(f"{job}/phase?WAIT=20", headers=self.as_user(user))
            except httpx.TransportError:
                await asyncio.sleep(0.1)
                continue
            assert answer.status_code == 200, answer.text
            if answer.text not in ("PENDING", "QUEUED", "EXECUTING"):
                return answer.text

    async def error(self, job: str, user: str = "ada") -> str:
        return (await self.client.get(f"{job}/error", headers=self.as_user(user))).text

    def leftovers(self) -> list[str]:
        """Files, containers and links that were being staged."""
        found = (name for _, below, names in os.walk(self.root) for name in (*below, *names))
        return [name for name in found if name.startswith(".vospace-")]

    @staticmethod
    def as_user(user: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {user}"} if user else {}

    async def put(self, path: str, body: bytes, user: str = "ada") -> None:
        answer = await self.client.put(f"{self.url}/files{path}", content=body, headers=self.as_user(user))
        assert answer.status_code == 201, answer.text

    async def container(self, path: str, user: str = "ada", public: bool = False) -> None:
        properties = (
            '<vos:property uri="ivo://ivoa.net/vospace/core#ispublic">true</vos:property>' if public else ""
        )
        answer = await self.client.put(
            f"{self.url}/nodes{path}",
            content='<vos:node xmlns:vos="http://www.ivoa.net/xml/VOSpace/v2.0"'
            ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="vos:ContainerNode">'
            f"<vos:properties>{properties}</vos:properties><vos:nodes/></vos:node>",
            headers=self.as_user(user),
        )
        assert answer.status_code == 201, answer.text


Eventually = Callable[[Callable[[], Any]], Awaitable[None]]


@pytest.fixture
def eventually() -> Eventually:
    """Waits until a condition holds; the condition may be a coroutine function."""

    async def eventually(condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(20):
            while True:
                found = condition()
                if await found if inspect.isawaitable(found) else found:
                    return
                await asyncio.sleep(0.02)

    return eventually


MakeService = Callable[..., Awaitable[Service]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def new_service(starter: Starter, directory: Path, database: str, source: str, **settings: str) -> Service:
    """A service that has not started, on a directory and a database, which pulls from a source."""
    if os.geteuid() != 0:
        pytest.skip("the service gives files to their owners, which only root can")
    port = free_port()
    environment = os.environ | {
        "DATABASE_URL": database,
        "PUBLIC_URL": f"http://127.0.0.1:{port}",
        "VOSPACE_BASE_DIR": str(directory / "space"),
        "VOSPACE_PREAUTH_KEY": "a key of tests, long enough for a MAC",
        "VOSPACE_ROOT_WRITERS": "any",
        "VOSPACE_PULL_SOURCES": f"{source}/d",
        "VOSPACE_PUSH_DESTINATIONS": f"{source}/up",
        "VOSPACE_PULL_BACKOFF": "0.01",
        "VOSPACE_PULL_ATTEMPTS": "3",
        # Longer than a busy machine stalls a process.
        "VOSPACE_JOB_LEASE": "6",
        "VOSPACE_JOB_ATTEMPTS": "50",
        **settings,
    }
    return Service(
        url=f"http://127.0.0.1:{port}/src/cavern",
        root=directory / "space/cavern",
        port=port,
        environment=environment,
        client=httpx.AsyncClient(timeout=30, verify=TLS),
        log=directory / f"service-{port}.log",
        starter=starter,
    )


@pytest.fixture
async def make_service(
    starter: Starter, tmp_path: Path, database_url: str, source: Source
) -> AsyncIterator[MakeService]:
    """Start processes on one database and one directory."""
    services: list[Service] = []

    async def make(**settings: str) -> Service:
        service = new_service(starter, tmp_path, database_url, source.base, **settings)
        services.append(service)
        await service.start()
        return service

    yield make
    for service in services:
        await service.kill()
        await service.client.aclose()


@pytest.fixture
async def mortal(make_service: MakeService) -> Service:
    """A service that is killed, whose jobs go on soon after it starts again."""
    return await make_service(VOSPACE_JOB_LEASE="1")


@pytest.fixture(scope="session")
def shared_service(
    starter: Starter, postgres: str, source_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """One that starts with the first test that needs it, since its start takes longer than most tests."""
    directory = tmp_path_factory.mktemp("shared")
    with new_database(postgres) as database:
        service = new_service(starter, directory, database, f"http://127.0.0.1:{source_port}")
        yield service
        if service.process is not None:
            service.process.send(signal.SIGKILL)
            service.process.wait()


@pytest.fixture
async def service(shared_service: Service, source: Source) -> AsyncIterator[Service]:
    """The service that tests share, with nothing in it."""
    shared = shared_service
    async with httpx.AsyncClient(timeout=30, verify=TLS) as client:
        shared.client = client
        if shared.process is None or not shared.process.alive:
            await shared.start()
        kept = set(shared.root.iterdir())
        yield shared
    # Jobs that still run lose their leases, and their sources end with the test.
    connection = await asyncpg.connect(shared.environment["DATABASE_URL"])
    await connection.execute(f"TRUNCATE {tables.job.fullname} CASCADE")
    await connection.close()
    for path in set(shared.root.iterdir()) - kept:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
