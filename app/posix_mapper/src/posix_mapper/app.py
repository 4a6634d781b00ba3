"""The POSIX mapper's application: ``/uid`` and ``/gid`` as OpenCADC's service answers them, VOSI and logControl."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import Response
from prometheus_client import Metric
from voservice import database, database_metrics, openapi, operations, tracing, vosi
from voservice.app import Methods, service
from voservice.auth import AuthenticationError, TokenVerifier
from voservice.config import load
from voservice.logging import configure
from voservice.metrics import gauge
from voservice.operations import Operators
from voservice.responses import text

from posix_mapper.config import PosixMapperSettings
from posix_mapper.dependencies import Context, log_parameters, operator
from posix_mapper.handlers import mapping
from posix_mapper.models.errors import BadParameter
from posix_mapper.services.levels import StoredLevels
from posix_mapper.services.mapping import Mapping
from posix_mapper.storage.levels import LevelTable
from posix_mapper.storage.mapping import MappingStore

LARGEST_BODY = 64 << 10
OPERATIONS = {
    **mapping.OPERATIONS,
    **operations.OPERATIONS,
    "GET /availability": openapi.Operation(openapi.AVAILABILITY, [openapi.DETAIL]),
    "GET /capabilities": openapi.Operation(openapi.CAPABILITIES),
}
"""Descriptions of what handlers read from the request themselves, unseen by FastAPI."""


def create_app() -> FastAPI:
    """Build the application from its settings."""
    settings = load(PosixMapperSettings)
    configure("posix-mapper", settings.log_level)
    tracing.configure("posix-mapper", settings)
    base = settings.posix_mapper_context_path
    engine = database.engine(settings)
    client = tracing.client(timeout=10)
    store = MappingStore(engine)
    levels = StoredLevels(LevelTable(engine))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for name, uid in settings.posix_mapper_reserved_users.items():
            await store.reserve(name, uid)
        listening = asyncio.create_task(levels.follow())
        yield
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await client.aclose()
        await engine.dispose()

    app = service(
        settings,
        title="POSIX mapper",
        description="Gives users and groups the uid and gid under which they own files.",
        prefix=base,
        lifespan=lifespan,
        refuse=lambda status, reason: text(f"{reason}\n", status),
        largest_body=LARGEST_BODY,
        quiet=("/availability",),
        caller_headers=True,
    )

    async def entries() -> list[Metric]:
        users, groups = await store.counts()
        values = {("user",): float(users), ("group",): float(groups)}
        return [gauge("posix_mapper_entries", "Users and groups that have a number", values, ["kind"])]

    app.state.collectors += [entries, database_metrics.of(engine)]
    app.state.context = Context(
        verifier=TokenVerifier.of(settings, client, settings.posix_mapper_registrars),
        mapping=Mapping(store, settings.posix_mapper_reserved_users, settings.posix_mapper_registrars),
        administrators=frozenset(settings.posix_mapper_reserved_users),
        operators=Operators(settings.posix_mapper_operators),
    )
    public = settings.public_url + base
    methods = Methods(app, base)
    methods.include(
        mapping.router,
        operations.router(levels, public, operator=operator, parameters=log_parameters, invalid=BadParameter),
        vosi.router(_capabilities(public), ready=store.check, unready="the database does not answer"),
    )
    openapi.complete(
        app,
        prefix=base,
        schemes={"token": openapi.TOKEN},
        callers=("token",),
        others={"/availability": (None,), "/capabilities": (None,)},
        error=openapi.LINE,
        operations=OPERATIONS,
    )
    _install_errors(app, methods)
    return app


def _capabilities(url: str) -> list[vosi.Capability]:
    return [
        # For anonymous callers too, who are rejected there: OpenCADC's Cavern looks both up before it has a caller.
        vosi.Capability(f"{mapping.STANDARD}#user-mapping-0.1", f"{url}/uid", "base"),
        vosi.Capability(f"{mapping.STANDARD}#group-mapping-0.1", f"{url}/gid", "base"),
        *vosi.own_capabilities(url),
        vosi.Capability(operations.LOG_CONTROL, f"{url}/logControl", methods=(vosi.TOKEN,)),
    ]


def _install_errors(app: FastAPI, methods: Methods) -> None:
    """Answer errors in a line of text."""

    @app.exception_handler(AuthenticationError)
    async def unauthorized(_: Request, error: AuthenticationError) -> Response:
        return text(error.description, error.status, error.headers)

    @app.exception_handler(BadParameter)
    async def bad(_: Request, error: BadParameter) -> Response:
        return text(f"{error}\n", 400)

    database.respond_when_unavailable(
        app, lambda: text("The database does not answer\n", 503, {"Retry-After": "10"})
    )
    methods.answer_in_text(missing="not found")
