"""The worker: Celery's, with a component in which tasks are staged (`celery -A preparer.worker …`)."""

from __future__ import annotations

import concurrent.futures
import logging
from contextlib import ExitStack
from typing import Any

import aiohttp
from anyio.abc import TaskStatus
from anyio.from_thread import start_blocking_portal
from celery import bootsteps, signals
from celery.platforms import EX_FAILURE
from celery.worker import state
from prometheus_client import start_http_server
from voservice import database, tracing
from voservice.auth import ClientCredentials
from voservice.config import load
from voservice.logging import configure
from vospace_client.client import Cavern

from preparer.broker import QUEUE, TASK, create
from preparer.broker.app import TRACE
from preparer.config import PreparerSettings
from preparer.ledger import MIGRATIONS, Ledger
from preparer.ledger.credentials import Vault
from preparer.staging.approach import Approach
from preparer.staging.filesystem import CopyApproach, LinkApproach
from preparer.staging.rse import Rses
from preparer.staging.vospace import CavernApproach
from preparer.worker.aftercare import Aftercare
from preparer.worker.runner import Runner

logger = logging.getLogger(__name__)
METRICS_PORT = 9000
settings = load(PreparerSettings)
app = create(settings)


@signals.setup_logging.connect
def configure_logging(**_options: Any) -> None:
    """Log as all services do."""
    configure("prepare-data-worker", settings.log_level)
    tracing.configure("prepare-data-worker", settings)
    # At INFO it logs two lines for each message.
    logging.getLogger("celery").setLevel(logging.WARNING)


def approaches(
    session: aiohttp.ClientSession, rses: Rses, credentials: ClientCredentials | None
) -> dict[str, Approach]:
    """Return the approaches that this deployment supports, by name."""
    proof = settings.preparer_pull_proof.get_secret_value()
    cavern = Cavern(settings.cavern_api_url, settings.preparer_vos_uri, session, proof)
    known: dict[str, Approach] = {
        "cavern_api_approach": CavernApproach(settings, cavern, rses, credentials),
        "copy_to_user_area": CopyApproach(settings),
        "symbolic_link": LinkApproach(settings),
    }
    supported = {*settings.supported_approaches, settings.prepare_data_approach}
    return {name: approach for name, approach in known.items() if name in supported}


async def serve(vault: Vault, *, task_status: TaskStatus[Runner]) -> None:
    """Run a runner until it is stopped; it is handed over as soon as it is there."""
    engine = database.engine(settings)
    connector = aiohttp.TCPConnector(
        limit=4 * settings.preparer_file_concurrency + settings.preparer_site_tasks * 2
    )
    async with (
        aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=120, sock_connect=10),
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=tracing.followed(),
        ) as session,
        tracing.client(timeout=20) as client,
        Rses(settings) as rses,
    ):
        secret = settings.service_client_secret.get_secret_value()
        credentials = (
            ClientCredentials(settings.oidc_issuer, settings.service_client_id, secret, client=client)
            if secret
            else None
        )
        known = approaches(session, rses, credentials)
        runner = Runner(Aftercare(settings, Ledger(engine), vault, known, session))
        task_status.started(runner)
        await runner.run()
    await engine.dispose()


class Staging(bootsteps.StartStopStep):
    """Component of the worker: an event loop in a thread of its own, since Celery's consumer blocks the main one."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        """Register the Celery task."""
        super().__init__(worker, **options)

        def stage(message: Any, _task: str) -> None:
            """Tell the runner that a task waits."""
            with tracing.received(f"receive {QUEUE}", message.request.get(TRACE)):
                self.portal.start_task_soon(self.runner.wake.set)

        worker.app.task(stage, name=TASK, bind=True)

    def start(self, worker: Any) -> None:
        """Bring the ledger's schema up to date and start the runner."""
        vault = Vault(settings)
        database.migrate(settings, MIGRATIONS)
        start_http_server(METRICS_PORT)
        with ExitStack() as resources:
            self.portal = resources.enter_context(
                start_blocking_portal(backend_options={"use_uvloop": True}, name="staging")
            )
            self.serving, self.runner = self.portal.start_task(serve, vault)
            self.resources = resources.pop_all()
        self.serving.add_done_callback(self._ended)

    def _ended(self, serving: concurrent.futures.Future[Any]) -> None:
        if (error := serving.exception()) is not None:
            # Without it the worker would take messages that nobody acts on: the container begins anew.
            logger.critical("The runner ended", exc_info=error)
            state.should_stop = EX_FAILURE  # type: ignore[assignment]  # its first value is None

    def stop(self, worker: Any) -> None:
        """Stop the runner, which gives its tasks back."""
        self.portal.call(self.runner.stop)
        concurrent.futures.wait([self.serving])
        self.resources.close()
        tracing.close()

    def terminate(self, worker: Any) -> None:
        """Stop in the same way: it takes no longer than the runner takes to give its tasks back."""
        self.stop(worker)


app.steps["worker"].add(Staging)


def run() -> int | str | None:
    """Run a worker until it is told to end; return the exit status, or why it could not begin."""
    worker = app.Worker(quiet=True)
    worker.start()
    return worker.exitcode
