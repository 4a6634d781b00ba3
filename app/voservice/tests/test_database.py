"""Migrations in one process at a time; a database that is not there, for those who start and those who ask."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from voservice import database
from voservice.config import ServiceSettings

pytest_plugins = ["voservice.testing"]

ENVIRONMENT = """
from alembic import context
connection = context.config.attributes["connection"]
context.configure(connection=connection)
with context.begin_transaction():
    context.run_migrations()
"""
# Slow on purpose, so that two that run it at once would both begin: the second CREATE would fail.
REVISION = """
from alembic import op
revision, down_revision = "1", None
def upgrade():
    op.execute("CREATE TABLE counted (n integer)")
    op.execute("SELECT pg_sleep(0.5)")
    op.execute("INSERT INTO counted VALUES (1)")
"""
BROKEN = """
from alembic import op
revision, down_revision = "2", "1"
def upgrade():
    op.execute("INSERT INTO counted VALUES (2)")
    op.execute("SELECT nonsense FROM counted")
"""
MIGRATE = "import sys; from pathlib import Path; from voservice import config, database;" \
    "database.migrate(config.load(config.ServiceSettings), Path(sys.argv[1]), float(sys.argv[2]))"  # fmt: skip


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    directory = tmp_path / "100% migrations"
    (directory / "versions").mkdir(parents=True)
    (directory / "env.py").write_text(ENVIRONMENT)
    (directory / "versions" / "one.py").write_text(REVISION)
    return directory


def start(url: str, migrations: Path, seconds: float = 30) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MIGRATE, str(migrations), str(seconds)],
        env={**os.environ, "DATABASE_URL": url},
        stderr=subprocess.PIPE,
        text=True,
    )


async def rows(url: str) -> list[int]:
    engine = database.engine(ServiceSettings(database_url=url))
    async with engine.connect() as connection:
        found = list(await connection.scalars(text("SELECT n FROM counted")))
    await engine.dispose()
    return found


async def test_of_several_processes_one_migrates(database_url: str, migrations: Path) -> None:
    processes = [start(database_url, migrations) for _ in range(2)]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert await rows(database_url) == [1]


async def test_a_migration_that_fails_leaves_nothing_and_says_why(
    database_url: str, migrations: Path
) -> None:
    settings = ServiceSettings(database_url=database_url)
    await asyncio.to_thread(database.migrate, settings, migrations)
    (migrations / "versions" / "two.py").write_text(BROKEN)
    with pytest.raises(Exception, match="nonsense"):
        await asyncio.to_thread(database.migrate, settings, migrations)
    assert await rows(database_url) == [1]
    (migrations / "versions" / "two.py").write_text(BROKEN.replace("nonsense", "n"))
    await asyncio.to_thread(database.migrate, settings, migrations)
    assert await rows(database_url) == [1, 2]


def test_a_database_that_is_not_there_is_named_without_its_password(migrations: Path, tmp_path: Path) -> None:
    process = start(f"postgresql://cavern:s3cret@/cavern?host={tmp_path}", migrations, 0.5)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "database_url: postgresql+asyncpg://cavern:***@/cavern" in told
    assert "does not answer within 0.5 s" in told
    assert "s3cret" not in told
    assert "Traceback" not in told


def test_connections_notice_that_their_server_is_gone() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as connected,
    ):
        database.watch(connected)
        assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        for option, value in database.KEEPALIVE.items():
            assert connected.getsockopt(socket.IPPROTO_TCP, option) == value


async def test_connections_are_watched(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[int] = []
    monkeypatch.setattr(database, "watch", lambda connected: watched.append(connected.family))
    engine = database.engine(ServiceSettings(database_url=database_url))
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
    await engine.dispose()
    assert watched == [socket.AF_UNIX]


END_OF_ALL = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = :name"
)


async def test_connections_that_the_server_closed_are_made_anew(database_url: str) -> None:
    settings = ServiceSettings(database_url=database_url)
    pool, other = database.engine(settings, 3), database.engine(settings, 1)
    closed = [asyncio.Event() for _ in range(3)]
    async with AsyncExitStack() as stack:
        for event in closed:
            connection = await stack.enter_async_context(pool.connect())
            raw = (await connection.get_raw_connection()).driver_connection
            raw.add_termination_listener(lambda _, event=event: event.set())
    async with other.connect() as connection:
        ended = await connection.execute(text(END_OF_ALL), {"name": pool.url.database})
        assert len(ended.all()) == 3
    async with asyncio.timeout(10):
        await asyncio.gather(*(event.wait() for event in closed))
    for _ in range(4):
        async with database.reader(pool).connect() as connection:
            assert await connection.scalar(text("SELECT 1")) == 1
    await pool.dispose()
    await other.dispose()


async def test_away_is_a_server_that_does_not_answer_and_nothing_else(
    database_url: str, tmp_path: Path
) -> None:
    pool = database.engine(ServiceSettings(database_url=database_url))

    async def error(engine: AsyncEngine, statement: str) -> Exception:
        with pytest.raises(DBAPIError) as caught:
            async with engine.connect() as connection:
                await connection.execute(text(statement))
        return caught.value

    for wrong in ("SELECT nonsense", "SELECT 1 / 0", "SELECT 'x'::integer"):
        assert not database.is_unavailable(await error(pool, wrong)), wrong
    assert database.is_unavailable(await error(pool, "SELECT pg_terminate_backend(pg_backend_pid())"))
    await pool.dispose()
    for url in (f"postgresql://nobody@/nothing?host={tmp_path}", "postgresql://nobody@127.0.0.1:1/nothing"):
        nobody = database.engine(ServiceSettings(database_url=url))
        assert database.is_unavailable(await error(nobody, "SELECT 1")), url
    assert not database.is_unavailable(ValueError("x"))


async def test_errors_tell_nothing_of_what_was_sent(database_url: str) -> None:
    pool = database.engine(ServiceSettings(database_url=database_url))
    with pytest.raises(DBAPIError) as caught:
        async with pool.connect() as connection:
            await connection.execute(text("SELECT 1 / (length(:word) - 6)"), {"word": "s3cr3t"})
    assert "s3cr3t" not in f"{caught.value} {caught.value!r}"
    await pool.dispose()


async def test_requests_are_answered_while_the_database_is_away_and_its_errors_stay_errors(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    pool = database.engine(ServiceSettings(database_url=database_url))
    app = Starlette()
    database.respond_when_unavailable(app, lambda: Response("later", 503))

    async def ask(request: Request) -> Response:
        async with pool.connect() as connection:
            await connection.execute(text(request.query_params["ask"]), {"word": "a secret"})
        return Response("done")

    app.add_route("/", ask)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="https://vo.example") as client:
        ended = "SELECT pg_terminate_backend(pg_backend_pid()), CAST(:word AS text)"
        answer = await client.get("/", params={"ask": ended})
        assert (answer.status_code, answer.text) == (503, "later")
        assert "The database does not answer: " in caplog.text
        assert "secret" not in caplog.text
        assert "SELECT" not in caplog.text
        with pytest.raises(DBAPIError):
            await client.get("/", params={"ask": "SELECT nonsense, CAST(:word AS text)"})
    await pool.dispose()
