"""The API's application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import httpx
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, Gauge, generate_latest
from sqlalchemy.exc import DBAPIError
from voservice import database, docs, openapi, problems
from voservice.auth import ClientCredentials, TokenVerifier
from voservice.config import load
from voservice.logging import AccessLog, configure
from voservice.middleware import protect
from voservice.problems import Forbidden
from vospace_client.client import Cavern

from preparer.api import legacy, v1
from preparer.api.body import Arrivals
from preparer.api.context import Context, context
from preparer.broker import Outbox, create
from preparer.config import PreparerSettings
from preparer.ledger import Ledger, TaskState
from preparer.ledger.credentials import Vault
from preparer.staging.rse import Rses

TASKS = Gauge("prepare_data_tasks", "Tasks by state", ["state"])
OLDEST = Gauge("prepare_data_oldest_seconds", "Age of the oldest unfinished task")

_KEY = openapi.parameter(
    "Idempotency-Key", "A request that is repeated with the same key makes no second task", where="header"
)
_TASK = openapi.answer("The task", "application/json", schema={"type": "object"})
_READY = {"type": "object", "properties": {name: {"type": "boolean"} for name in ("ledger", "broker")}}
OPERATIONS = {
    "POST /": openapi.Operation(parameters=[_KEY]),
    "POST /v1/tasks": openapi.Operation({200: _TASK, 201: _TASK}, [_KEY]),
    "GET /v1/tasks/{task_id}/events": openapi.Operation(
        {200: openapi.answer("Server-sent events", "text/event-stream")}
    ),
    "GET /ready": openapi.Operation(
        {
            200: openapi.answer("Both answer, or the ledger alone", "application/json", schema=_READY),
            503: openapi.answer("The ledger does not answer", "application/json", schema=_READY),
        }
    ),
    "GET /metrics": openapi.Operation({200: openapi.answer("Metrics", "text/plain")}),
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
            timeout=aiohttp.ClientTimeout(total=30), cookie_jar=aiohttp.DummyCookieJar()
        ) as session,
        httpx.AsyncClient(timeout=15) as client,
        Rses(settings) as rses,
    ):
        secret = settings.service_client_secret.get_secret_value()
        outbox = Outbox(create(settings), ledger)
        app.state.context = Context(
            settings=settings,
            ledger=ledger,
            vault=Vault(settings),
            verifier=TokenVerifier.of(settings, client),
            credentials=(
                ClientCredentials(settings.oidc_issuer, settings.service_client_id, secret, client=client)
                if secret
                else None
            ),
            outbox=outbox,
            arrivals=Arrivals(settings.preparer_max_body),
            cavern=Cavern(settings.cavern_api_url, settings.preparer_vos_uri, session),
            rses=rses,
        )
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
    app = FastAPI(
        title="prepare-data",
        description="Stages files of a Rucio Storage Element into users' areas.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.settings = settings
    app.router.redirect_slashes = False
    problems.install(app)

    def unavailable() -> JSONResponse:
        detail = "The ledger does not answer; nothing was changed, try again"
        return problems.document(503, "Temporarily unavailable", detail, {"Retry-After": "5"})

    database.respond_when_unavailable(app, unavailable)
    protect(app, settings, lambda status, reason: problems.document(status, Forbidden.title, reason))
    app.add_middleware(AccessLog, quiet=("/health", "/ready", "/metrics"))

    # Fixed paths first: what comes last takes any word for a task's id.
    docs.install(app)

    @app.get("/health", tags=["operation"], summary="Whether the service lives")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ping", tags=["operation"], summary="The same")
    async def ping() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", tags=["operation"], summary="Whether ledger and broker answer")
    async def ready(request: Request) -> JSONResponse:
        shared = context(request)
        try:
            await shared.ledger.counts()
            ledger = True
        except (DBAPIError, OSError):
            ledger = False
        # Without the broker requests are still taken: they wait in the ledger.
        body = {"ledger": ledger, "broker": shared.outbox.healthy}
        return JSONResponse(body, 200 if ledger else 503)

    @app.get("/metrics", tags=["operation"], summary="Prometheus metrics")
    async def metrics(request: Request) -> Response:
        shared = context(request)
        counts = await shared.ledger.counts()
        for state in TaskState:
            TASKS.labels(str(state)).set(counts.get(state, 0))
        OLDEST.set(await shared.ledger.oldest_waiting())
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    app.include_router(v1.router)
    app.include_router(legacy.router)
    openapi.complete(
        app,
        schemes={"token": openapi.TOKEN},
        callers=("token",),
        others=dict.fromkeys(("/health", "/ping", "/ready", "/metrics"), (None,)),
        error=openapi.PROBLEM,
        operations=OPERATIONS,
    )
    return app
