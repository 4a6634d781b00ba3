"""Outages: Cavern or the RSE goes away in the middle of staging, and comes back or does not."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cavern_double import CavernDouble
from cryptography.fernet import Fernet
from ledger_double import ledger
from preparer.config import PreparerSettings
from preparer.ledger import ACTIVE, Ledger, NewFile, NewTask, Outcome, TaskState
from preparer.ledger.credentials import Vault
from preparer.ledger.tables import metadata
from preparer.staging.approach import Job
from preparer.staging.rse import Rses
from preparer.staging.vospace import CavernApproach
from preparer.worker import aftercare, heartbeat
from preparer.worker.aftercare import Aftercare
from preparer.worker.runner import Runner
from sqlalchemy.ext.asyncio import create_async_engine
from voservice.testing import database_url, postgres
from vospace_client.client import Cavern

__all__ = ["database_url", "postgres"]

RUNNING = {"QUEUED", "EXECUTING"}
CONTENT = b"what is to be staged"


@dataclass
class BulkJob:
    """A job as Cavern has it; the test does its work."""

    rows: list[dict[str, Any]]
    phase: str = "PENDING"
    lines: list[dict[str, Any]] = field(default_factory=list)
    readable: bool = True

    def tell(self, row: int, state: str = "COMPLETED", **more: Any) -> None:
        """End one row."""
        target = self.rows[row]["target"]
        self.lines.append(
            {"event": len(self.lines) + 1, "target": target, "state": state, "bytes": 10} | more
        )

    def end(self, phase: str = "COMPLETED") -> None:
        self.phase = phase


class StandIn(CavernDouble):
    """A Cavern and an RSE that go away and come back, as the test says."""

    def __init__(self) -> None:
        """Both are there, and Cavern has its bulk pull."""
        super().__init__({str(number): CONTENT for number in range(10)}, pulls=True)
        self.nodes["/home/ada"] = None
        self.bulk = True
        self.cavern_away: str | None = None
        self.rse_away: int | None = None
        self.retry_after: str | None = None
        self.refused = 0
        self.lose_next_job = False
        self.bulk_jobs: dict[str, BulkJob] = {}
        self.side_by_side = 0
        # What a bulk job does by itself as soon as it runs.
        self.work: Callable[[BulkJob], None] = lambda job: None
        self.errors: dict[str, str | None] = {}
        self.on_phase: Callable[[], None] = lambda: None

    def application(self) -> web.Application:
        application = super().application()
        application.middlewares.append(self._away)
        application.add_routes(
            [
                web.post("/cavern/bulk-pull", self.create),
                web.get("/cavern/bulk-pull/{job}", self.phase),
                web.post("/cavern/bulk-pull/{job}/phase", self.set_phase),
                web.get("/cavern/bulk-pull/{job}/results/files", self.results),
            ]
        )
        return application

    @web.middleware
    async def _away(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if not request.path.startswith("/cavern"):
            return await handler(request)
        if self.cavern_away is None:
            answer = await handler(request)
            if self.cavern_away is None or answer.prepared:
                return answer
        self.refused += 1
        if self.cavern_away == "reset":
            assert request.transport is not None
            request.transport.abort()
        headers = {"Retry-After": self.retry_after} if self.retry_after else {}
        return web.Response(status=503, headers=headers)

    async def source(self, request: web.Request) -> web.Response:
        if self.rse_away is not None:
            self.refused += 1
            return web.Response(status=self.rse_away)
        return await super().source(request)

    # -- single transfers ------------------------------------------------------------------------------------

    def carry_out(self, job: str) -> None:
        """What becomes of a job is settled when it runs, whatever is away later."""
        self.errors[job] = super()._failed(job)
        if self.errors[job] is None and self.rse_away is not None and self.jobs[job][0].startswith("http"):
            self.errors[job] = (
                f"TransferFailed: http://rse/500.dat: source answered {self.rse_away} Something"
            )
        if self.errors[job] is None:
            super().carry_out(job)

    def _failed(self, job: str) -> str | None:
        return self.errors[job]

    async def job(self, request: web.Request) -> web.Response:
        self.on_phase()
        self.refused += self._failed(request.match_info["job"]) is not None
        return await super().job(request)

    # -- bulk pull -------------------------------------------------------------------------------------------

    async def create(self, request: web.Request) -> web.Response:
        number = str(len(self.bulk_jobs))
        job = self.bulk_jobs[number] = BulkJob((await request.json())["rows"])
        if request.query.get("PHASE") == "RUN":
            self._run(job)
        if self.lose_next_job:
            self.lose_next_job = False
            assert request.transport is not None
            request.transport.abort()
        return web.Response(
            status=303, headers={"Location": f"{request.url.origin()}/cavern/bulk-pull/{number}"}
        )

    def _run(self, job: BulkJob) -> None:
        job.phase = "EXECUTING"
        running = sum(other.phase in RUNNING for other in self.bulk_jobs.values())
        self.side_by_side = max(self.side_by_side, running)
        self.work(job)

    def _job(self, request: web.Request) -> BulkJob:
        try:
            return self.bulk_jobs[request.match_info["job"]]
        except KeyError:
            raise web.HTTPNotFound(text="JobNotFound: it") from None

    async def phase(self, request: web.Request) -> web.Response:
        return web.Response(text=f"<job><phase>{self._job(request).phase}</phase></job>")

    async def set_phase(self, request: web.Request) -> web.Response:
        job = self._job(request)
        wanted = (await request.post())["PHASE"]
        if wanted == "RUN" and job.phase == "PENDING":
            self._run(job)
        if wanted == "ABORT" and job.phase in RUNNING | {"PENDING"}:
            job.end("ABORTED")
        return web.Response()

    async def results(self, request: web.Request) -> web.StreamResponse:
        job = self._job(request)
        if not job.readable:
            return web.Response(status=500)
        answer = web.StreamResponse()
        await answer.prepare(request)
        told = int(request.query["from"])
        while self.cavern_away is None:
            ended = job.phase not in RUNNING
            for line in job.lines[told:]:
                await answer.write(json.dumps(line).encode() + b"\n")
            told = len(job.lines)
            if ended:
                return answer
            await asyncio.sleep(0.01)
        assert request.transport is not None
        request.transport.abort()
        return answer


async def until(wanted: Callable[[], bool], seconds: float = 15) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(seconds):
        while True:
            if wanted():
                return
            await asyncio.sleep(0.01)


async def _nothing(*_: object) -> None:
    """What a dead worker does about its leases."""


class Site:
    """A stand-in, a ledger, and workers that come and go."""

    def __init__(self, stand_in: StandIn, settings: PreparerSettings, ledger: Ledger) -> None:
        """No worker runs yet."""
        self.stand_in = stand_in
        self.settings = settings
        self.ledger = ledger
        self.vault = Vault(settings)

    async def submit(self, count: int = 3) -> uuid.UUID:
        files = [NewFile(f"s:{n}", f"s/{n}", f"/home/ada/{n}") for n in range(count)]
        credential = self.vault.encrypt("token of ada")
        new = NewTask("ada", "ada", "cavern_api_approach", uuid.uuid4().hex, files, credential)
        return (await self.ledger.submit(new))[0].id

    @asynccontextmanager
    async def worker(self, name: str = "w1", *, killed: bool = False) -> AsyncIterator[None]:
        """A worker that is stopped in the end, or killed: then it gives nothing back."""
        settings = self.settings.model_copy(update={"preparer_worker_name": name})
        async with aiohttp.ClientSession() as session, Rses(settings) as rses:
            cavern = Cavern(settings.cavern_api_url, settings.preparer_vos_uri, session)
            approach = CavernApproach(settings, cavern, rses, None)
            approaches = {"cavern_api_approach": approach}
            runner = Runner(Aftercare(settings, self.ledger, self.vault, approaches, session))
            running = asyncio.create_task(runner.run())
            try:
                yield
            finally:
                if killed:
                    runner.release = _nothing
                    running.cancel()
                    for task in (held := [held.task for held in runner.executor.running.values()]):
                        task.cancel()
                    await asyncio.gather(running, *held, return_exceptions=True)
                else:
                    runner.stop()
                    await running

    async def row(self, task: uuid.UUID, wanted: Callable[[Any], bool], seconds: float = 15) -> Any:
        async with asyncio.timeout(seconds):
            while True:
                if wanted(row := await self.ledger.task(task)):
                    return row
                await asyncio.sleep(0.02)

    async def staged(self) -> Any:
        """A task that one worker has brought to its end."""
        task = await self.submit()
        async with self.worker():
            return await self.final(task)

    async def final(self, task: uuid.UUID) -> Any:
        return await self.row(task, lambda row: row.state not in ACTIVE)

    async def outage(self, kind: str) -> None:
        """Let Cavern be away for many more tries than a file has."""
        self.stand_in.cavern_away = kind
        refused = self.stand_in.refused
        await until(lambda: self.stand_in.refused > refused + 20)
        self.stand_in.cavern_away = None


@pytest.fixture
async def stand_in() -> AsyncIterator[tuple[StandIn, str]]:
    found = StandIn()
    runner = web.AppRunner(found.application(), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield found, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def settings_of(url: str, **more: Any) -> PreparerSettings:
    return PreparerSettings(
        cavern_api_url=f"{url}/cavern",
        abs_url_rse_root=f"{url}/rse",
        preparer_credential_key=Fernet.generate_key().decode(),
        preparer_lease=6,
        preparer_poll=0.1,
        preparer_file_attempts=2,
        preparer_retry_delay=0.01,
        preparer_retry_delay_max=0.05,
        **more,
    )


@pytest.fixture
async def site(
    stand_in: tuple[StandIn, str], database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Site]:
    monkeypatch.setattr(heartbeat, "PATH", tmp_path / "heartbeat")
    monkeypatch.setattr(aftercare, "ABANDON_DELAY", 0.05)
    engine = create_async_engine(database_url.replace("postgresql:", "postgresql+asyncpg:"), pool_size=20)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    yield Site(stand_in[0], settings_of(stand_in[1], abs_path_celery_results=tmp_path), Ledger(engine))
    await engine.dispose()


# -- bulk jobs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["503", "reset"])
async def test_a_bulk_job_is_followed_to_its_end_when_cavern_is_back(site: Site, kind: str) -> None:
    """By the same worker, which keeps its hold on the task meanwhile."""
    jobs = site.stand_in.bulk_jobs
    task = await site.submit()
    async with site.worker("w1"), site.worker("w2"):
        await until(lambda: "0" in jobs and jobs["0"].phase == "EXECUTING")
        jobs["0"].tell(0)
        await site.row(task, lambda row: row.files_done == 1)
        site.stand_in.cavern_away = kind
        jobs["0"].tell(1)
        await asyncio.sleep(1.5 * site.settings.preparer_lease)
        await site.outage(kind)
        await site.row(task, lambda row: row.files_done == 2)
        jobs["0"].tell(2)
        jobs["0"].end()
        row = await site.final(task)
    assert (row.state, row.attempts, row.job) == (TaskState.SUCCEEDED, 1, None)
    assert len(jobs) == 1


async def test_the_worker_after_a_killed_one_takes_up_its_job_once_cavern_is_back(site: Site) -> None:
    jobs = site.stand_in.bulk_jobs
    task = await site.submit()
    async with site.worker("killed", killed=True):
        await until(lambda: "0" in jobs and jobs["0"].phase == "EXECUTING")
        jobs["0"].tell(0)
        await site.row(task, lambda row: row.files_done == 1)
        site.stand_in.cavern_away = "503"
    async with site.worker("heir"):
        await site.row(task, lambda row: row.worker == "heir")
        await site.outage("503")
        jobs["0"].tell(1)
        await site.row(task, lambda row: row.files_done == 2)
        jobs["0"].tell(2)
        jobs["0"].end()
        row = await site.final(task)
    assert (row.state, row.attempts) == (TaskState.SUCCEEDED, 2)
    assert len(jobs) == 1


async def test_after_a_job_that_is_gone_another_fetches_what_is_left(site: Site) -> None:
    jobs = site.stand_in.bulk_jobs
    task = await site.submit()
    async with site.worker():
        await until(lambda: "0" in jobs and jobs["0"].phase == "EXECUTING")
        jobs["0"].tell(0)
        await site.row(task, lambda row: row.files_done == 1)
        jobs["lost"] = jobs.pop("0")
        jobs["lost"].end("gone")
        await until(lambda: "1" in jobs and jobs["1"].phase == "EXECUTING")
        for number in range(2):
            jobs["1"].tell(number)
        jobs["1"].end()
        row = await site.final(task)
    assert row.state == TaskState.SUCCEEDED
    assert [row["target"][-1] for row in jobs["1"].rows] == ["1", "2"]


async def test_a_job_that_cannot_be_taken_up_is_ended_before_another_begins(site: Site) -> None:
    def work(job: BulkJob) -> None:
        if job is site.stand_in.bulk_jobs["0"]:
            job.readable = False
            return
        for number in range(len(job.rows)):
            job.tell(number)
        job.end()

    site.stand_in.work = work
    row = await site.staged()
    assert row.state == TaskState.SUCCEEDED
    assert [job.phase for job in site.stand_in.bulk_jobs.values()] == ["ABORTED", "COMPLETED"]
    assert site.stand_in.side_by_side == 1


async def test_a_job_whose_making_was_not_answered_never_runs(site: Site) -> None:
    site.stand_in.lose_next_job = True
    task = await site.submit()
    async with site.worker():
        jobs = site.stand_in.bulk_jobs
        await until(lambda: any(job.phase == "EXECUTING" for job in list(jobs.values())[1:]))
        (second,) = list(jobs.values())[1:]
        for number in range(3):
            second.tell(number)
        second.end()
        row = await site.final(task)
    assert row.state == TaskState.SUCCEEDED
    assert jobs["0"].phase == "PENDING"


async def test_files_that_ended_jobs_never_tell_of_fail_after_some_tries(site: Site) -> None:
    site.stand_in.work = lambda job: job.end("ABORTED")
    row = await site.staged()
    assert (row.state, row.files_failed) == (TaskState.FAILED, 3)
    assert "ended without a word" in row.info
    assert len(site.stand_in.bulk_jobs) == site.settings.preparer_file_attempts


@pytest.mark.parametrize("when", ["while it is followed", "while nobody follows it"])
async def test_cancelling_reaches_a_job_at_a_cavern_that_is_away(
    site: Site, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The task ends at once, and the job as soon as Cavern can be told."""
    monkeypatch.setattr("preparer.staging.bulk.CANCEL_SECONDS", 0.2)
    jobs = site.stand_in.bulk_jobs
    task = await site.submit()
    async with site.worker("w1"):
        await until(lambda: "0" in jobs and jobs["0"].phase == "EXECUTING")
        jobs["0"].tell(0)
        await site.row(task, lambda row: row.files_done == 1)
        site.stand_in.cavern_away = "503"
        if when == "while it is followed":
            await site.ledger.cancel(task)
            await site.final(task)
    await site.ledger.cancel(task)
    row = await site.final(task)
    assert (row.state, row.files_done) == (TaskState.CANCELLED, 1)
    assert jobs["0"].phase == "EXECUTING"
    async with site.worker("w2"):
        await site.outage("503")
        await until(lambda: jobs["0"].phase == "ABORTED")
        row = await site.row(task, lambda row: row.job is None)
    assert (row.state, row.credential) == (TaskState.CANCELLED, None)


async def test_a_retried_task_takes_up_the_job_that_it_had_left_behind(site: Site) -> None:
    """Cavern was away for too long, and staged on meanwhile."""
    jobs = site.stand_in.bulk_jobs
    limit = site.settings.preparer_outage
    site.settings = site.settings.model_copy(update={"preparer_outage": 0.3})
    task = await site.submit()
    async with site.worker("w1"):
        await until(lambda: "0" in jobs and jobs["0"].phase == "EXECUTING")
        site.stand_in.cavern_away = "503"
        row = await site.final(task)
    assert (row.state, row.files_failed) == (TaskState.FAILED, 3)
    assert {file.fault for file in await site.ledger.list_files(task)} <= {"InternalFault", "TransferFailed"}
    site.settings = site.settings.model_copy(update={"preparer_outage": limit})
    for number in range(3):
        jobs["0"].tell(number)
    jobs["0"].end()
    site.stand_in.cavern_away = None
    assert await site.ledger.retry(task, site.vault.encrypt("token of ada"), None) == 3
    async with site.worker("w2"):
        row = await site.final(task)
    assert (row.state, row.files_done, row.files_failed) == (TaskState.SUCCEEDED, 3, 0)
    assert len(jobs) == 1


AWAY = {
    "fault": "TransferFailed",
    "detail": "http://rse/s/1: ClientConnectorError: Cannot connect to host rse:80",
    "transient": True,
    "away": "source",
}


async def test_files_of_a_bulk_job_wait_for_an_rse_that_is_away(site: Site) -> None:
    def work(job: BulkJob) -> None:
        for number in range(len(job.rows)):
            away = len(site.stand_in.bulk_jobs) <= 3 * site.settings.preparer_file_attempts
            job.tell(number, **({"state": "ERROR", **AWAY} if away else {}))
        job.end()

    site.stand_in.work = work
    row = await site.staged()
    assert row.state == TaskState.SUCCEEDED
    assert {file.attempts for file in await site.ledger.list_files(row.id)} == {0}


async def test_an_rse_that_stays_away_fails_the_task_and_ends_its_job(site: Site) -> None:
    """All of it at the limit, though the job underneath would go on for longer."""
    site.settings = site.settings.model_copy(update={"preparer_outage": 0.3})
    site.stand_in.work = lambda job: job.tell(0, "ERROR", **AWAY)
    task = await site.submit()
    async with site.worker():
        await until(lambda: bool(site.stand_in.bulk_jobs))
        await asyncio.sleep(0.5)
        site.stand_in.bulk_jobs["0"].tell(1, "ERROR", **AWAY)
        row = await site.final(task)
    assert (row.state, row.files_failed) == (TaskState.FAILED, 3)
    assert "Cannot connect to host" in row.info
    assert [job.phase for job in site.stand_in.bulk_jobs.values()] == ["ABORTED"]


# -- single pulls and relayed files --------------------------------------------------------------------------


@pytest.fixture(params=[True, False], ids=["pull", "relay"])
def single(request: pytest.FixtureRequest, site: Site) -> Site:
    """Cavern has no bulk pull, and pulls single files or not even these."""
    site.stand_in.bulk = False
    site.stand_in.pulls = request.param
    return site


def present(site: Site) -> dict[str, bytes]:
    return {path: content for path, content in site.stand_in.nodes.items() if content is not None}


@pytest.mark.parametrize("kind", ["503", "reset"])
async def test_single_files_wait_for_cavern(single: Site, kind: str) -> None:
    away = False

    def once() -> None:
        nonlocal away
        if not away:
            away = True
            single.stand_in.cavern_away = kind

    single.stand_in.on_phase = once
    task = await single.submit()
    async with single.worker():
        await until(lambda: away)
        await single.outage(kind)
        row = await single.final(task)
    assert row.state == TaskState.SUCCEEDED
    assert {file.attempts for file in await single.ledger.list_files(task)} == {0}
    assert present(single) == {f"/home/ada/{number}": CONTENT for number in range(3)}
    if single.stand_in.pulls:
        # Each job was followed to its end, or never begun.
        assert len(single.stand_in.jobs) == 3


async def test_single_files_wait_for_the_rse(single: Site) -> None:
    single.stand_in.rse_away = 503
    task = await single.submit()
    async with single.worker():
        await until(lambda: single.stand_in.refused > 20)
        single.stand_in.rse_away = None
        row = await single.final(task)
    assert row.state == TaskState.SUCCEEDED
    assert {file.attempts for file in await single.ledger.list_files(task)} == {0}
    assert present(single) == {f"/home/ada/{number}": CONTENT for number in range(3)}


async def test_single_files_fail_with_an_rse_that_stays_away(single: Site) -> None:
    single.settings = single.settings.model_copy(
        update={"preparer_outage": 0.3, "preparer_file_concurrency": 1}
    )
    single.stand_in.rse_away = 503
    task = await single.submit(20)
    async with single.worker():
        row = await single.final(task)
    assert (row.state, row.files_failed) == (TaskState.FAILED, 20)
    assert "answered 503" in row.info
    assert present(single) == {}


async def test_what_is_no_outage_stays_bounded_by_tries(single: Site) -> None:
    single.stand_in.rse_away = 500
    row = await single.staged()
    assert (row.state, row.files_failed) == (TaskState.FAILED, 3)
    # The first try of the first file finds out, in one of the two cases, that Cavern does not pull.
    assert single.stand_in.refused - (not single.stand_in.pulls) == 6


@pytest.mark.parametrize("service", ["cavern", "rse"])
async def test_cancelling_ends_the_wait_for_a_service_that_is_away(
    stand_in: tuple[StandIn, str], service: str
) -> None:
    found, url = stand_in
    found.bulk = found.pulls = False
    settings = settings_of(url).model_copy(
        update={"preparer_retry_delay": 600.0, "preparer_retry_delay_max": 600.0}
    )
    told: list[Outcome] = []

    async def tell(outcomes: Sequence[Outcome]) -> None:
        told.extend(outcomes)

    async def remember(_bulk: str | None, _event: int) -> None:
        return

    async with aiohttp.ClientSession() as session, Rses(settings) as rses:
        cavern = Cavern(settings.cavern_api_url, settings.preparer_vos_uri, session)
        approach = CavernApproach(settings, cavern, rses, None)
        task: Any = SimpleNamespace(id=uuid.uuid4(), username="ada", worker="w", job=None, job_event=0)
        job = Job(task, "token", ledger(tell, tell, remember))
        fields = {"size": None, "md5": None, "adler32": None, "attempts": 0, "rse": None, "did": "s:0"}
        file: Any = SimpleNamespace(number=0, path="s/0", target="/home/ada/0", **fields)
        await cavern.bulk_pull_url()
        if service == "rse":
            found.rse_away = 503
        else:
            found.cavern_away, found.retry_after = "503", "600"
        staging = asyncio.create_task(approach.stage(job, [file]))
        async with asyncio.timeout(15):
            await until(lambda: found.refused > 0)
            job.cancelled.set()
            await staging
    assert told == []
