"""The wiring of jobs: which kinds there are, and what runs them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import aiohttp
import asyncpg
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine
from voservice import database
from voservice.database import LiveConnection
from voservice.notices import Notices
from voservice.sources import SourcePolicy
from voservice.storage_elements import Elements

from vospace.bulk.model import PARAMETERS
from vospace.bulk.runner import BulkRunner
from vospace.bulk.store import RowStore
from vospace.bulk.tables import ROWS_CHANNEL
from vospace.config import Settings
from vospace.control.state import Control, State
from vospace.control.tables import SETTING_CHANNEL
from vospace.kinds import BULK, DELETE, PACKAGE, SETPROPS, SYNCTRANS, TRANSFERS
from vospace.package.runner import interrupted
from vospace.recursive.runner import RecursiveDelete, RecursiveUpdate, parameters_of_delete
from vospace.services.preauth import Preauth
from vospace.space.space import Space
from vospace.transfers.fetcher import Fetcher, FetchLimits, open_session
from vospace.transfers.negotiation import Negotiator
from vospace.transfers.runner import TransferRunner
from vospace.transfers.sender import Sender
from vospace.uws.executor import Executor, Pool
from vospace.uws.model import Limits, Share
from vospace.uws.service import JobService
from vospace.uws.store import JobStore
from vospace.uws.tables import PHASE_CHANNEL

_connect: Callable[..., Awaitable[Any]] = asyncpg.connect


class Jobs:
    """All jobs of one server process."""

    def __init__(self, settings: Settings, engine: AsyncEngine, space: Space, preauth: Preauth) -> None:
        self._settings = settings
        self._space = space
        retention = settings.vospace_job_retention
        transfer = Limits(settings.vospace_transfer_duration, retention)
        self.store = JobStore(engine, Share(settings.vospace_user_jobs, settings.vospace_user_kept_bytes))
        self.notices = Notices(
            partial(_connect, _dsn(settings), timeout=10, connection_class=LiveConnection),
            (PHASE_CHANNEL, ROWS_CHANNEL, SETTING_CHANNEL),
        )
        self.service = JobService(
            self.store,
            self.notices,
            {
                TRANSFERS: transfer,
                SYNCTRANS: transfer,
                PACKAGE: Limits(settings.vospace_transfer_duration, min(retention, 86_400)),
                BULK: Limits(settings.vospace_bulk_duration, retention),
                DELETE: Limits(86_400, retention),
                SETPROPS: Limits(86_400, retention),
            },
            {BULK: PARAMETERS, DELETE: parameters_of_delete(space)},
            settings.vospace_anonymous_retention,
        )
        self.rows = RowStore(engine, self.store)
        self.negotiator = Negotiator(space, preauth, settings.service_url)
        self.control = Control(engine, self.notices)
        self.control.observe(self._pause)
        self.executor: Executor | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work on jobs until the end of the block."""
        settings = self._settings
        limits = FetchLimits(
            max_bytes=settings.vospace_pull_max_bytes,
            connect_timeout=settings.vospace_pull_connect_timeout,
            stall_timeout=settings.vospace_pull_stall_timeout,
            attempts=settings.vospace_pull_attempts,
            backoff=settings.vospace_pull_backoff,
        )
        destinations = SourcePolicy(settings.vospace_push_destinations)
        sources = Elements(
            settings.vospace_rses,
            partial(open_session, limits),
            issuer=settings.oidc_issuer,
            others=settings.vospace_pull_sources,
            processes=settings.workers,
        )
        async with AsyncExitStack() as stack:
            fetcher = Fetcher(await stack.enter_async_context(sources), limits)
            session = await stack.enter_async_context(open_session(limits, aiohttp.TCPConnector(limit=0)))
            transfers = TransferRunner(
                self._space,
                self.negotiator,
                fetcher,
                Sender(session, destinations, limits),
                settings.service_url,
            )
            bulk = BulkRunner(self._space, self.rows, fetcher, settings)
            pools = (
                Pool(
                    settings.vospace_transfer_slots,
                    {TRANSFERS: transfers, SYNCTRANS: transfers, PACKAGE: interrupted},
                    settings.share_of(settings.vospace_transfer_slots),
                ),
                Pool(
                    settings.vospace_recursive_slots,
                    {DELETE: RecursiveDelete(self._space), SETPROPS: RecursiveUpdate(self._space)},
                    settings.share_of(settings.vospace_recursive_slots),
                ),
                Pool(
                    settings.vospace_bulk_slots,
                    {BULK: bulk},
                    settings.share_of(settings.vospace_bulk_slots),
                ),
            )
            self.executor = Executor(
                self.store,
                self.notices,
                pools,
                lease=settings.vospace_job_lease,
                max_attempts=settings.vospace_job_attempts,
                anonymous_jobs=settings.vospace_anonymous_jobs,
            )
            await self.control.read()
            self._pause()
            stack.push_async_callback(self.control.close)
            await self.notices.start()
            stack.push_async_callback(self.notices.stop)
            await self.executor.start()
            stack.push_async_callback(self.executor.stop)
            yield

    def _pause(self) -> None:
        if self.executor is not None:
            self.executor.pause(self.control.state is not State.READ_WRITE)


def _dsn(settings: Settings) -> str:
    return make_url(database.url(settings)).set(drivername="postgresql").render_as_string(hide_password=False)
