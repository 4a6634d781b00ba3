"""A worker process: Celery takes messages in the main thread, the runner stages in an event loop beside it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import uvloop
from celery.signals import setup_logging
from prometheus_client import start_http_server
from voservice import database
from voservice.auth import ClientCredentials
from vospace_client.client import Cavern

import preparer.ledger
from preparer import tasks
from preparer.approaches.base import Approach
from preparer.approaches.cavern import CavernApproach
from preparer.approaches.filesystem import CopyApproach, LinkApproach
from preparer.config import PreparerSettings
from preparer.credentials import Vault
from preparer.ledger import Ledger
from preparer.worker.runner import Runner

logger = logging.getLogger(__name__)
METRICS_PORT = 9000
MIGRATIONS = Path(preparer.ledger.__file__).parent / "migrations"


def approaches(
    settings: PreparerSettings, session: aiohttp.ClientSession, credentials: ClientCredentials | None
) -> dict[str, Approach]:
    """The approaches that this deployment supports."""
    cavern = Cavern(settings.cavern_api_url, settings.preparer_vos_uri, session)
    known: dict[str, Approach] = {
        "cavern_api_approach": CavernApproach(settings, cavern, session, credentials),
        "copy_to_user_area": CopyApproach(settings),
        "symbolic_link": LinkApproach(settings),
    }
    supported = {*settings.supported_approaches, settings.prepare_data_approach}
    return {name: approach for name, approach in known.items() if name in supported}


def _keep_logs(**_options: Any) -> None:
    logging.getLogger("celery").setLevel(logging.WARNING)
    # It warns of tasks with a time to begin at; we have none.
    logging.getLogger("kombu.transport.native_delayed_delivery").setLevel(logging.ERROR)


class Worker:
    """One worker process."""

    def __init__(self, settings: PreparerSettings) -> None:
        """Prepare; `run` does the work."""
        self.settings = settings
        self.runner: Runner | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.ready = threading.Event()
        self.failed = False
        self.thread = threading.Thread(target=self._thread, name="runner")

    def run(self) -> None:
        """Serve until Celery is told to end."""
        database.migrate(self.settings, MIGRATIONS)
        start_http_server(METRICS_PORT)
        self.thread.start()
        self.ready.wait()
        if self.failed:
            raise SystemExit(1)
        tasks.on_wake.append(self._wake)
        # Whoever listens to this sets the logs up: Celery then leaves them as they are.
        setup_logging.connect(_keep_logs)
        application = tasks.create(self.settings)
        try:
            application.worker_main(
                [
                    "--quiet",
                    "worker",
                    "--pool=threads",
                    "--concurrency=4",
                    "--without-gossip",
                    "--without-mingle",
                ]
            )
        finally:
            if self.loop and self.runner:
                self.loop.call_soon_threadsafe(self.runner.stop)
            self.thread.join()
        if self.failed:
            raise SystemExit(1)

    def _wake(self, _task: str) -> None:
        if self.loop and self.runner:
            self.loop.call_soon_threadsafe(self.runner.wake.set)

    def _thread(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._main())
        except BaseException:
            # Celery would go on to take messages that nobody acts on: end it, for the container to begin anew.
            logger.exception("The runner ended")
            self.failed = True
            if self.ready.is_set():
                os.kill(os.getpid(), signal.SIGTERM)
            self.ready.set()

    async def _main(self) -> None:
        settings = self.settings
        engine = database.engine(settings)
        connector = aiohttp.TCPConnector(
            limit=4 * settings.preparer_file_concurrency + settings.preparer_site_tasks * 2
        )
        async with (
            aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=120, sock_connect=10),
                cookie_jar=aiohttp.DummyCookieJar(),
            ) as session,
            httpx.AsyncClient(timeout=20) as client,
        ):
            secret = settings.service_client_secret.get_secret_value()
            credentials = (
                ClientCredentials(settings.oidc_issuer, settings.service_client_id, secret, client=client)
                if secret
                else None
            )
            self.loop = asyncio.get_running_loop()
            self.runner = Runner(
                settings, Ledger(engine), Vault(settings), approaches(settings, session, credentials), session
            )
            self.ready.set()
            await self.runner.run()
        await engine.dispose()
