"""The application in the test's own process, on a directory and a database of its own."""

from __future__ import annotations

import errno
import importlib.util
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from voservice import database
from voservice.testing import database_url, postgres
from vospace.app import MIGRATIONS, build
from vospace.config import Settings
from vospace.space.space import Space
from vospace.storage.property_store import open_store

__all__ = ["database_url", "postgres"]

KEY = "a key of tests, long enough for a MAC"


@pytest.fixture(scope="session")
def space_database(postgres: str) -> str:
    return postgres.format("postgres")


@pytest.fixture(scope="session")
def metadata(request: pytest.FixtureRequest) -> str:
    """Where properties are kept; a module of tests may ask for each way (`EACH_WAY`)."""
    return getattr(request, "param", "xattrs")


EACH_WAY = pytest.mark.parametrize("metadata", ["xattrs", "sidecar"], indirect=True, scope="session")


@pytest.fixture(autouse=True)
def no_user_attributes(metadata: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a sidecar, a file system that has access control lists and no `user.*` attributes."""
    if metadata != "sidecar":
        return

    def without(call: Callable[..., Any]) -> Callable[..., Any]:
        def refuse(path: Any, name: str, *arguments: Any, **options: Any) -> Any:
            if name.startswith("user."):
                raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
            return call(path, name, *arguments, **options)

        return refuse

    for name in ("getxattr", "setxattr", "removexattr"):
        monkeypatch.setattr(os, name, without(getattr(os, name)))


@pytest.fixture(scope="session")
def space_root(tmp_path_factory: pytest.TempPathFactory, metadata: str) -> Path:
    return tmp_path_factory.mktemp(f"space-{metadata}")


@pytest.fixture(scope="session")
def settings(space_database: str, space_root: Path, metadata: str) -> Settings:
    if os.geteuid() != 0:
        pytest.skip("the service gives files to their owners, which only root can")
    settings = Settings(
        database_url=space_database,
        public_url="http://space",
        vospace_base_dir=space_root,
        vospace_metadata=metadata,
        vospace_preauth_key=KEY,
        vospace_root_writers=["any"],
        vospace_aliases=["ivo://cadc.nrc.ca/arc"],
        vospace_operators=["ada"],
    )
    database.migrate(settings, MIGRATIONS)
    return settings


@pytest.fixture
def root(settings: Settings) -> Path:
    return settings.root


@pytest.fixture
def stored(settings: Settings) -> Callable[[Path], dict[str, str]]:
    """Properties of a file or directory as they are kept."""

    def stored(path: Path) -> dict[str, str]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            kept = open_store(settings.vospace_metadata, settings.vospace_base_dir).load(descriptor)
            return {key: value.decode() for key, value in kept.items()}
        finally:
            os.close(descriptor)

    return stored


@pytest.fixture
def new_space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Space]]:
    """Spaces of the test's own."""
    if os.geteuid() != 0:
        pytest.skip("the service gives files to their owners, which only root can")
    made: list[Space] = []

    def make(**settings: object) -> Space:
        base = tmp_path_factory.mktemp("space")
        given = {"vospace_base_dir": base, "vospace_preauth_key": "k" * 32, "database_url": "postgresql://"}
        made.append(Space(Settings(**{**given, **settings})))
        return made[-1]

    yield make
    for space in made:
        space.close()


def process(settings: Settings) -> FastAPI:
    """One server process, with callers named by their token."""
    spec = importlib.util.spec_from_file_location("server", Path(__file__).parents[1] / "jobs/server.py")
    assert spec is not None
    assert spec.loader is not None
    server = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(server)
    return build(settings, server.KnownUsers())


@pytest.fixture(scope="session")
def app(settings: Settings) -> FastAPI:
    """A server process that nobody has started yet."""
    return process(settings)


@asynccontextmanager
async def application(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Requests to one server process of the application."""
    app = process(settings)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://space/src/cavern") as client,
    ):
        yield client


@pytest.fixture
def running() -> Callable[[Settings], AbstractAsyncContextManager[httpx.AsyncClient]]:
    """`application`, for tests with settings of their own."""
    return application


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Requests to the application; `http://space/src/cavern` is its base URL."""
    async with application(settings) as client:
        yield client


@pytest.fixture
async def second(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Requests to another server process with the same files and the same database."""
    async with application(settings) as client:
        yield client


@pytest.fixture
async def cut_off(settings: Settings, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Requests to a server process with the same files, whose database does not answer."""
    gone = settings.model_copy(update={"database_url": f"postgresql://nobody@/nothing?host={tmp_path}"})
    transport = httpx.ASGITransport(process(gone))
    async with httpx.AsyncClient(transport=transport, base_url="http://space/src/cavern") as client:
        yield client


ADA = {"Authorization": "Bearer ada"}
BOB = {"Authorization": "Bearer bob"}


@pytest.fixture
def ada() -> dict[str, str]:
    return ADA


@pytest.fixture
def bob() -> dict[str, str]:
    return BOB


@pytest.fixture
def names() -> Callable[[], str]:
    """Names of top-level nodes that no other test has."""
    return unique


def unique() -> str:
    return f"n{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def box(client: httpx.AsyncClient) -> str:
    """Path of a new container of ada's."""
    path = f"/{unique()}"
    answer = await client.put(f"/nodes{path}", content=node("ContainerNode"), headers=ADA)
    assert answer.status_code == 201, answer.text
    return path


def node(
    kind: str, uri: str = "", properties: dict[str, str | None] | None = None, target: str = ""
) -> bytes:
    """A node document."""
    parts = []
    for key, value in (properties or {}).items():
        parts.append(
            f'<vos:property uri="{key}" xsi:nil="true"/>'
            if value is None
            else f'<vos:property uri="{key}">{value}</vos:property>'
        )
    attribute = f' uri="{uri}"' if uri else ""
    tail = {"ContainerNode": "<vos:nodes/>", "LinkNode": f"<vos:target>{target}</vos:target>"}.get(kind, "")
    return (
        '<vos:node xmlns:vos="http://www.ivoa.net/xml/VOSpace/v2.0"'
        f' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"{attribute} xsi:type="vos:{kind}">'
        f"<vos:properties>{''.join(parts)}</vos:properties>{tail}</vos:node>"
    ).encode()


@pytest.fixture
def document() -> Callable[..., bytes]:
    return node
