"""pytest plugin: a private PostgreSQL server for the tests of services that have a database."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest


def _binaries() -> Path:
    found = shutil.which("initdb")
    candidates = [Path(found).resolve().parent] if found else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for directory in candidates:
        if all((directory / program).exists() for program in ("initdb", "pg_ctl")):
            return directory
    pytest.fail("no PostgreSQL on this machine: install the package postgresql", pytrace=False)


@contextmanager
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server until the end of the context, reached by a socket: ``postgresql://postgres@/{}?host=…``."""
    binaries = _binaries()
    directory = Path("/tmp") / f"pg-{uuid.uuid4().hex[:8]}"  # noqa: S108 - a socket's path must be short
    directory.mkdir(mode=0o755)
    as_user: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(directory, "postgres")
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]

    def run(*arguments: str) -> None:
        done = subprocess.run([*as_user, *arguments], capture_output=True, text=True, check=False, cwd="/")
        if done.returncode:
            pytest.fail(f"{arguments[0]}: {done.stdout}{done.stderr}", pytrace=False)

    data = directory / "data"
    run(
        str(binaries / "initdb"),
        "-D",
        str(data),
        "-U",
        "postgres",
        "-A",
        "trust",
        "--no-sync",
        "-E",
        "UTF8",
        "--locale=C.UTF-8",
    )
    options = (
        f"-c listen_addresses='' -c unix_socket_directories={directory} -c fsync=off -c max_connections=300"
    )
    run(str(binaries / "pg_ctl"), "-D", str(data), "-o", options, "-w", "-l", str(directory / "log"), "start")
    yield f"postgresql://postgres@/{{}}?host={directory}"
    run(str(binaries / "pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop")
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL server of the tests' own, as `postgres_server` has it."""
    with postgres_server() as url:
        yield url


@contextmanager
def new_database(postgres: str) -> Iterator[str]:
    """URL of an empty database, until the end of the context."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    server = postgres.format("postgres")
    asyncio.run(_execute(server, f"CREATE DATABASE {name}"))
    yield postgres.format(name)
    asyncio.run(_execute(server, f"DROP DATABASE {name} WITH (FORCE)"))


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)  # type: ignore[no-untyped-call]  # asyncpg has no types
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
def database_url(postgres: str) -> Iterator[str]:
    """URL of an empty database that only one test has."""
    with new_database(postgres) as url:
        yield url
