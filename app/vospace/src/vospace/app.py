"""The application: configuration, wiring, routes."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.requests import ClientDisconnect
from voservice import database, database_metrics, operations, tracing, vosi
from voservice.app import Methods, service
from voservice.auth import AuthenticationError, ClientCredentials, TokenVerifier
from voservice.certificates import ClientCertificates
from voservice.config import load
from voservice.logging import configure
from voservice.operations import Operators
from voservice.responses import text as plain

from vospace import metrics, openapi
from vospace.bodies import Arrivals
from vospace.bulk import handlers as bulk
from vospace.config import Settings
from vospace.control import handlers as control
from vospace.control.state import State
from vospace.dependencies import Context, operator, owner
from vospace.handlers import files, nodes, overview, transfers
from vospace.jobs import Jobs
from vospace.kinds import BULK, DELETE, PACKAGE, SETPROPS, SYNCTRANS, TRANSFERS
from vospace.models.errors import Fault, InvalidArgument, QuotaExceeded
from vospace.package import handlers as packages
from vospace.recursive import handlers as recursive
from vospace.services.changes import Changes
from vospace.services.identities import Identities, MappingUnavailable, Registry
from vospace.services.preauth import Preauth
from vospace.space.space import Space
from vospace.uws.routes import job_list

ANY_TRANSFER = (TRANSFERS, SYNCTRANS, PACKAGE)
MIGRATIONS = Path(__file__).parent / "migrations"
UMASK = 0o007
THREADS = 32
"""Of a process, for the file system: they mostly wait."""
logger = logging.getLogger(__name__)


def create_app() -> FastAPI:
    """Build the application from the environment."""
    settings = load(Settings)
    configure("vospace", settings.log_level)
    tracing.configure("vospace", settings)
    return build(settings, identities(settings))


def identities(settings: Settings) -> Identities:
    """Make the identities of callers, by the issuer and the POSIX mapper that are configured."""
    client = tracing.client(timeout=15)
    return Identities(
        verifier=TokenVerifier.of(settings, client),
        credentials=ClientCredentials(
            settings.oidc_issuer,
            settings.service_client_id,
            settings.service_client_secret.get_secret_value(),
            client=client,
        ),
        registry=Registry(settings.registry_url, client),
        posix_mapper=settings.vospace_posix_mapper,
        group_service=settings.vospace_gms,
        groups_delegated=settings.vospace_gms_delegated,
        root_owner=(
            settings.vospace_root_owner,
            settings.vospace_root_owner_uid,
            settings.vospace_root_owner_gid,
        ),
        certificates=(
            ClientCertificates(settings.vospace_client_authorities, settings.vospace_client_revocations)
            if settings.vospace_client_authorities and settings.vospace_client_revocations
            else None
        ),
        client=client,
    )


def build(settings: Settings, known: Identities) -> FastAPI:
    """Wire one server process."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a bulk pull holds a batch of files open
    space = Space(settings)
    engine = database.engine(settings)
    preauth = Preauth(
        settings.vospace_preauth_key.get_secret_value().encode(), settings.vospace_preauth_seconds
    )
    jobs = Jobs(settings, engine, space, preauth)
    path = settings.service_path

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        mask = os.umask(UMASK)
        threads = ThreadPoolExecutor(THREADS, thread_name_prefix="space")
        asyncio.get_running_loop().set_default_executor(threads)
        await database.wait(engine)
        stopping = threading.Event()
        sweeping = asyncio.create_task(asyncio.to_thread(_sweep, space, stopping))
        async with jobs.running():
            yield
        stopping.set()
        await sweeping
        await engine.dispose()
        os.umask(mask)

    app = service(
        settings,
        title="VOSpace",
        prefix=path,
        lifespan=lifespan,
        refuse=lambda status, reason: plain(f"PermissionDenied: {reason}\n", status),
        quiet=("/availability",),
        caller_headers=True,
    )

    app.state.context = Context(
        settings, space, known, Changes(known), preauth, jobs, Operators(settings.vospace_operators)
    )
    app.state.collectors += [metrics.of(settings, jobs.store, jobs.control), database_metrics.of(engine)]
    methods = Methods(app, path)
    methods.include(
        files.router,
        nodes.router,
        transfers.router,
        packages.router,
        bulk.router,
        *_job_lists(jobs, settings),
    )
    url = settings.service_url

    async def ready() -> None:
        await jobs.store.ready()
        await asyncio.to_thread(os.statvfs, settings.root)

    def state() -> tuple[bool, str]:
        found = jobs.control.state
        return found is not State.OFFLINE, found.note

    methods.include(
        operations.router(
            jobs.control,
            url,
            operator=operator,
            parameters=control.log_parameters,
            invalid=InvalidArgument,
        ),
        control.router,
        vosi.router(overview.capabilities(url), ready=ready, state=state),
        overview.router(settings.vospace_resource_id, url),
    )
    app.state.jobs, app.state.space, app.state.engine = jobs, space, engine
    app.state.arrivals = Arrivals(settings.vospace_user_bodies, space.spool)
    openapi.install(app, path)
    _install_errors(app, methods)
    return app


def _job_lists(jobs: Jobs, settings: Settings) -> list[APIRouter]:
    """Make the routers of the job lists."""
    return [
        job_list(
            path,
            base_url=settings.service_url,
            service=jobs.service,
            kinds=kinds,
            listed=listed,
            owner_of=owner,
            create=create,
        )
        for path, kinds, listed, create in (
            ("/transfers", ANY_TRANSFER, (TRANSFERS,), transfers.create),
            ("/synctrans", ANY_TRANSFER, (SYNCTRANS,), transfers.create),
            ("/pkg", (PACKAGE,), (PACKAGE,), transfers.create),
            ("/bulk-pull", (BULK,), (BULK,), bulk.create),
            ("/async-delete", (DELETE,), (DELETE,), recursive.create_delete),
            ("/async-setprops", (SETPROPS,), (SETPROPS,), recursive.create_update),
        )
    ]


def _sweep(space: Space, stopping: threading.Event) -> None:
    try:
        removed = space.sweep(stopping.is_set)
    except OSError:
        logger.exception("cannot sweep the space")
        return
    if removed:
        logger.warning("removed %d nodes that were being staged when a process died", removed)


def _install_errors(app: FastAPI, methods: Methods) -> None:
    """Faults as text/plain, one line."""

    @app.exception_handler(Fault)
    async def fault(_: Request, error: Fault) -> Response:
        text = error.detail if isinstance(error, QuotaExceeded) and error.detail else error.text
        headers = {"Retry-After": "10"} if error.status in (429, 503) else None
        return plain(text + "\n", error.status, headers)

    @app.exception_handler(AuthenticationError)
    async def unauthenticated(_: Request, error: AuthenticationError) -> Response:
        fault = "ServiceBusy" if error.status == 503 else "NotAuthenticated"
        return plain(f"{fault}: {error.description}\n", error.status, error.headers)

    @app.exception_handler(MappingUnavailable)
    async def unavailable(_: Request, error: MappingUnavailable) -> Response:
        logger.warning("%s", error)
        return plain(f"ServiceBusy: {error}\n", 503, {"Retry-After": "10"})

    database.respond_when_unavailable(
        app, lambda: plain("ServiceBusy: the database does not answer\n", 503, {"Retry-After": "10"})
    )

    methods.answer_in_text()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return plain(f"InvalidArgument: {error.errors()[0]['msg']}\n", 400)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, _error: ClientDisconnect) -> Response:
        return plain("InvalidArgument: the request ended early\n", 400)

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:  # AccessLog logs it
        return plain(f"unexpected exception: {type(error).__name__}\n", 500)
