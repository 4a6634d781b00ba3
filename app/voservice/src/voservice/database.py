"""PostgreSQL: the engine, the wait for the server, and the migrations of the schema."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, event, make_url, text
from sqlalchemy.exc import DBAPIError, InterfaceError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from voservice.config import ServiceSettings

if TYPE_CHECKING:
    # Workers that use the database have no web server.
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

MIGRATION_LOCK = 7_262_601
CONNECT_TIMEOUT = 10
# TCP keepalive, in seconds: a server that disappears with its network does not close its connections.
KEEPALIVE = {
    socket.TCP_KEEPIDLE: 10,
    socket.TCP_KEEPINTVL: 5,
    socket.TCP_KEEPCNT: 3,
    socket.TCP_USER_TIMEOUT: 30_000,
}
# Connection exception, insufficient resources, operator intervention, system error (PostgreSQL, appendix A).
_STATES_UNAVAILABLE = ("08", "53", "57", "58")
UNAVAILABLE = (DBAPIError, PoolTimeout, ConnectionError)
"""Errors that may mean that the server is unavailable; see `is_unavailable`."""

logger = logging.getLogger(__name__)


def watch(connected: Any) -> None:
    """Make a TCP socket fail within 30 s if its peer disappears."""
    if connected.family == socket.AF_UNIX:
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        connected.setsockopt(socket.IPPROTO_TCP, option, value)


class LiveConnection(asyncpg.Connection):
    """A connection that detects the disappearance of its server."""

    def __init__(self, protocol: Any, transport: Any, *arguments: Any) -> None:
        """Set up keepalive on the connection's socket."""
        super().__init__(protocol, transport, *arguments)
        watch(transport.get_extra_info("socket"))


class DatabaseUnavailable(Exception):
    """The database did not accept a query in time."""


def url(settings: ServiceSettings) -> str:
    """Return SQLAlchemy's URL of the configured database, with the password."""
    parsed = make_url(settings.database_url).set(drivername="postgresql+asyncpg")
    password = settings.database_password.get_secret_value()
    if password:
        parsed = parsed.set(password=password)
    return parsed.render_as_string(hide_password=False)


async def _connect(*arguments: Any, **options: Any) -> Any:
    """Connect; turn an OSError, which could come from anywhere, into an error of the database driver."""
    try:
        return await asyncpg.connect(*arguments, **options)  # type: ignore[no-untyped-call]  # asyncpg has no types
    except OSError as exc:  # TimeoutError is one
        raise asyncpg.CannotConnectNowError(str(exc) or type(exc).__name__) from exc


def is_unavailable(error: Exception) -> bool:
    """Return whether *error* means that the server is unavailable, so that the same query may succeed later."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, UNAVAILABLE)
    if isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated:
        return True
    state = getattr(error.orig, "sqlstate", None)
    return state is not None and state.startswith(_STATES_UNAVAILABLE)


def respond_when_unavailable(app: Starlette, answer: Callable[[], Response]) -> None:
    """Make *app* respond with *answer* if the database is unavailable; other database errors stay errors."""

    async def respond(_: Request, error: Exception) -> Response:
        if not is_unavailable(error):
            raise error
        logger.warning("The database does not answer: %s", _gist(error))
        return answer()

    for kind in UNAVAILABLE:
        app.add_exception_handler(kind, respond)


def _gist(error: Exception) -> str:
    """Return the error without the lines after the first: the statement, with its values, and a link."""
    return str(error).partition("\n")[0] or type(error).__name__


def engine(settings: ServiceSettings, pool_size: int = 12) -> AsyncEngine:
    """Create the engine of a service with a limited number of connections; it recovers from a restart of the server.

    Connections detect that the server has closed them, so they are not tested before each use. Each takes about 5 MB on
    the server.
    """
    made = create_async_engine(
        url(settings),
        pool_size=pool_size,
        max_overflow=0,
        # Logged errors contain statements, but no values sent by users.
        hide_parameters=True,
        connect_args={
            "timeout": CONNECT_TIMEOUT,
            "connection_class": LiveConnection,
            "async_creator_fn": _connect,
            # JIT compilation pays off for reports; the services query a few rows at a time.
            "server_settings": {"jit": "off"},
        },
    )
    event.listen(made.sync_engine, "checkout", _open)
    return made


def reader(database: AsyncEngine) -> AsyncEngine:
    """Return the same pool for single read-only queries, without the round trips of a transaction."""
    return database.execution_options(isolation_level="AUTOCOMMIT")


def _open(connection: Any, _record: Any, _proxy: Any) -> None:
    if connection.driver_connection.is_closed():
        raise InvalidatePoolError


async def wait(database: AsyncEngine, seconds: float = 120) -> None:
    """Wait until the database accepts a query; raises ``DatabaseUnavailable`` if it does not within *seconds*."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            async with database.connect() as connection:
                await connection.execute(text("SELECT 1"))
                return
        except (DBAPIError, OSError) as exc:
            if time.monotonic() > deadline:
                where = database.url.render_as_string(hide_password=True)
                raise DatabaseUnavailable(
                    f"{where} does not answer within {seconds:g} s: {_gist(exc)}"
                ) from exc
            logger.info("Waiting for the database: %s", type(exc).__name__)
            await asyncio.sleep(0.3)


async def _upgrade(database_url: str, migrations: Path, seconds: float) -> None:
    database = create_async_engine(
        database_url, poolclass=NullPool, hide_parameters=True, connect_args={"timeout": CONNECT_TIMEOUT}
    )
    try:
        await wait(database, seconds)
        async with database.connect() as connection:
            # The lock belongs to the session, so it is released with this connection in any case.
            await connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
            await connection.commit()
            await connection.run_sync(_run(migrations))
            await connection.commit()
    finally:
        await database.dispose()


def _run(migrations: Path) -> Callable[[Connection], None]:
    def upgrade(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(migrations).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    return upgrade


def migrate(settings: ServiceSettings, migrations: Path, seconds: float = 120) -> None:
    """Bring the schema to the newest revision; several processes may try at once, one does it.

    Waits *seconds* for the database and then ends the process with a message that names the variable.
    """
    try:
        asyncio.run(_upgrade(url(settings), migrations, seconds))
    except DatabaseUnavailable as exc:
        raise SystemExit(f"database_url: {exc}") from exc
