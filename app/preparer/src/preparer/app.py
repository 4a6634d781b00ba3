"""The application of core: the API, and the page above it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import aiohttp
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from voservice import database, database_metrics, openapi, problems, tracing
from voservice.app import service
from voservice.auth import ClientCredentials, TokenVerifier
from voservice.config import load
from voservice.logging import configure
from voservice.problems import Forbidden
from vospace_client.client import Cavern

from preparer.api import legacy, operation, v1
from preparer.api.body import Arrivals
from preparer.api.context import Context
from preparer.broker import Outbox, create
from preparer.config import PreparerSettings
from preparer.ledger import Ledger
from preparer.ledger.credentials import Vault
from preparer.rucio import Rucio
from preparer.staging.rse import Rses
from preparer.ui import app as ui

_KEY = openapi.parameter(
    "Idempotency-Key", "A request that is repeated with the same key makes no second task", where="header"
)
_TASK = openapi.answer("The task", "application/json", schema={"type": "object"})
OPERATIONS = {
    "POST /": openapi.Operation(parameters=[_KEY]),
    "POST /v1/tasks": openapi.Operation({200: _TASK, 201: _TASK}, [_KEY]),
    "GET /v1/tasks/{task_id}/events": openapi.Operation(
        {200: openapi.answer("Server-sent events", "text/event-stream")}
    ),
    **operation.OPERATIONS,
}
"""Descriptions of what is read from the request itself, which FastAPI cannot see."""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Wire the stores and clients of this process."""
    settings: PreparerSettings = app.state.settings
    engine = database.engine(settings, pool_size=20)
    ledger = Ledger(engine)
    async with (
        aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=30),
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=tracing.followed(),
        ) as session,
        tracing.client(timeout=15) as client,
        Rses(settings) as rses,
    ):
        secret = settings.service_client_secret.get_secret_value()
        verifier = TokenVerifier.of(settings, client)
        if settings.preparer_page_client_id:
            app.state.page = ui.create(settings, engine, verifier, client)
        outbox = Outbox(create(settings), ledger)
        app.state.context = Context(
            settings=settings,
            ledger=ledger,
            vault=Vault(settings),
            verifier=verifier,
            credentials=(
                ClientCredentials(settings.oidc_issuer, settings.service_client_id, secret, client=client)
                if secret
                else None
            ),
            outbox=outbox,
            arrivals=Arrivals(settings.preparer_max_body),
            cavern=Cavern(settings.cavern_api_url, settings.preparer_vos_uri, session),
            rses=rses,
            rucio=Rucio(settings, session, client) if settings.preparer_rucio_url else None,
        )
        app.state.collectors += [
            partial(operation.tasks, ledger),
            operation.certificate(settings.public_url),
            database_metrics.of(engine),
        ]
        publishing = asyncio.create_task(outbox.run())
        yield
        publishing.cancel()
        with suppress(asyncio.CancelledError):
            await publishing
        outbox.close()
    await engine.dispose()


def create_app() -> FastAPI:
    """Build the application from the environment."""
    settings = load(PreparerSettings)
    configure("prepare-data-core", settings.log_level)
    tracing.configure("prepare-data-core", settings)
    app = service(
        settings,
        title="prepare-data",
        description="Stages files of a Rucio Storage Element into users' areas.",
        lifespan=lifespan,
        refuse=lambda status, reason: problems.document(status, Forbidden.title, reason),
        quiet=operation.PATHS,
    )
    app.state.settings = settings
    ui.install(app, settings)
    # Fixed paths first: what comes last takes any word for a task's id.
    for router in (operation.router, v1.router, legacy.router):
        app.include_router(router)
    openapi.complete(
        app,
        schemes={"token": openapi.TOKEN},
        callers=("token",),
        others=dict.fromkeys(("/health", "/ping", "/ready"), (None,)),
        error=openapi.PROBLEM,
        operations=OPERATIONS,
    )
    _install_errors(app)
    return app


def _install_errors(app: FastAPI) -> None:
    """Answer errors with problem documents."""
    problems.install(app)

    def unavailable() -> JSONResponse:
        detail = "The ledger does not answer; nothing was changed, try again"
        return problems.document(503, "Temporarily unavailable", detail, {"Retry-After": "5"})

    database.respond_when_unavailable(app, unavailable)
