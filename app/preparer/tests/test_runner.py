"""The runner: tasks go on whatever happens to a worker, to an approach, or to a caller's host."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography.fernet import Fernet
from preparer.config import PreparerSettings
from preparer.ledger import ACTIVE, File, FileState, Ledger, NewFile, NewTask, Outcome, Task, TaskState
from preparer.ledger.credentials import Vault
from preparer.ledger.tables import metadata, tasks
from preparer.staging.approach import Approach, Job, Removal, StagingError
from preparer.worker import aftercare, heartbeat
from preparer.worker.aftercare import Aftercare
from preparer.worker.runner import Runner
from pydantic import ValidationError
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import create_async_engine
from voservice import tracing
from voservice.testing import database_url, postgres
from voservice.testing_traces import collecting

__all__ = ["database_url", "postgres"]

Act = Callable[[Job, Sequence[File]], Awaitable[None]]


class Stub(Approach):
    """Stages as a test says."""

    def __init__(self, act: Act) -> None:
        """Stage by *act*."""
        self.act = act
        self.removed: list[int] = []
        self.admitted = 0

    async def admit(self, job: Job, pages: AsyncIterator[Sequence[File]]) -> None:
        self.admitted += 1

    async def stage(self, job: Job, files: Sequence[File]) -> None:
        await self.act(job, files)

    async def remove(self, task: Task, token: str, files: Sequence[File]) -> Removal:
        assert token == "token of ada"
        self.removed += [file.number for file in files]
        # The second is the user's own by now.
        return Removal(gone=[file.number for file in files if file.number != 1])


async def all_staged(job: Job, files: Sequence[File]) -> None:
    await job.ledger.record(job.task.id, [Outcome(file.number, FileState.STAGED, 10) for file in files])


class Site:
    """A ledger, a vault, and workers that come and go."""

    def __init__(self, ledger: Ledger, tmp_path: Path, session: aiohttp.ClientSession) -> None:
        """No worker runs yet."""
        self.ledger = ledger
        self.session = session
        self.settings = PreparerSettings(
            abs_path_celery_results=tmp_path,
            preparer_credential_key=Fernet.generate_key().decode(),
            preparer_callback_key="key",
            preparer_callback_hosts="127.0.0.1",
            # Longer than a busy machine stalls a process.
            preparer_lease=6,
            preparer_poll=0.1,
            preparer_retry_delay=0.01,
            preparer_batch=100,
        )
        self.vault = Vault(self.settings)

    def leases(self, seconds: int) -> None:
        """Lease tasks for so long, where it is waited for a lease's end."""
        self.settings = self.settings.model_copy(update={"preparer_lease": seconds})

    async def submit(self, count: int = 3, **more: Any) -> uuid.UUID:
        files = [NewFile(f"s:{n}", f"s/{n}", f"/home/ada/{n}", size=10) for n in range(count)]
        credential = self.vault.encrypt("token of ada")
        new = NewTask("ada", "ada", "stub", uuid.uuid4().hex, files, credential, **more)
        return (await self.ledger.submit(new))[0].id

    @asynccontextmanager
    async def worker(self, approach: Approach, name: str = "w1") -> AsyncIterator[Runner]:
        settings = self.settings.model_copy(update={"preparer_worker_name": name})
        runner = Runner(Aftercare(settings, self.ledger, self.vault, {"stub": approach}, self.session))
        running = asyncio.create_task(runner.run())
        try:
            yield runner
        finally:
            runner.stop()
            await running

    async def until(self, task: uuid.UUID, wanted: Callable[[Any], bool], seconds: float = 20) -> Any:
        async with asyncio.timeout(seconds):
            while True:
                row = await self.ledger.task(task)
                if wanted(row):
                    return row
                await asyncio.sleep(0.02)

    async def final(self, task: uuid.UUID) -> Any:
        return await self.until(task, lambda row: row.state not in ACTIVE)


@pytest.fixture
async def site(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr(heartbeat, "PATH", tmp_path / "heartbeat")
    engine = create_async_engine(database_url.replace("postgresql:", "postgresql+asyncpg:"), pool_size=20)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    async with aiohttp.ClientSession() as session:
        yield Site(Ledger(engine), tmp_path, session)
    await engine.dispose()


async def test_batches_then_a_receipt_of_every_file(site: Site, tmp_path: Path) -> None:
    batches: list[int] = []

    async def act(job: Job, files: Sequence[File]) -> None:
        assert job.token == "token of ada"
        batches.append(len(files))
        await all_staged(job, files)

    task = await site.submit(250)
    async with site.worker(Stub(act)):
        assert (await site.final(task)).state == TaskState.SUCCEEDED
    assert batches == [100, 100, 50]
    assert (tmp_path / f"{task}.json").stat().st_mode & 0o777 == 0o640
    receipt = json.loads((tmp_path / f"{task}.json").read_text())
    assert [result["number"] for result in receipt["results"]] == list(range(250))
    assert "token of ada" not in json.dumps(receipt)


async def test_a_receipt_that_a_killed_worker_owes_is_written_by_the_next(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await site.submit()
    await site.ledger.claim("killed", 60, 1, 4, 32)
    await site.ledger.record(task, [Outcome(number, FileState.STAGED, 10) for number in range(3)])
    assert await site.ledger.finish(task, "killed") is not None
    monkeypatch.setattr(aftercare, "RECEIPT_DELAY", 0)
    receipt = tmp_path / f"{task}.json"
    async with site.worker(Stub(all_staged)):
        await site.until(task, lambda _: receipt.exists())
    assert len(json.loads(receipt.read_text())["results"]) == 3


@pytest.mark.parametrize(
    ("retention", "most", "left"), [(86_400, 0, [1, 2]), (0, 7, [1, 2]), (0, 5, [2]), (0, 0, [0, 1, 2])]
)
async def test_old_tasks_and_those_too_many_are_removed(
    site: Site, retention: int, most: int, left: list[int]
) -> None:
    settings = site.settings.model_copy(
        update={"preparer_task_retention": retention, "preparer_ledger_files": most}
    )
    made = []
    for hours in (30, 20, 0.1):
        task = await site.submit()
        await site.ledger.cancel(task)
        ended = datetime.now(UTC) - timedelta(hours=hours)
        async with site.ledger.engine.begin() as connection:
            await connection.execute(update(tasks).where(tasks.c.id == task).values(finished=ended))
        made.append(task)
    for step, _ in Aftercare(settings, site.ledger, site.vault, {}, site.session).steps():
        await step()
    assert [number for number, task in enumerate(made) if await site.ledger.task(task)] == left


def test_a_task_is_kept_until_its_result_can_be_read() -> None:
    with pytest.raises(ValidationError, match=r"preparer_task_retention\n.*at least 3600"):
        PreparerSettings(preparer_task_retention=3599)
    assert PreparerSettings(preparer_task_retention=0).preparer_task_retention == 0


async def test_a_set_of_files_that_is_not_admitted_fails_as_a_whole(site: Site) -> None:
    """All batches of it, before the first is staged."""
    seen: list[int] = []

    class Full(Stub):
        async def admit(self, job: Job, pages: AsyncIterator[Sequence[File]]) -> None:
            async for files in pages:
                seen.extend(file.number for file in files)
            raise StagingError("QuotaExceeded", "the files need more than is left")

    task = await site.submit(250)
    async with site.worker(Full(all_staged)):
        row = await site.final(task)
    assert seen == list(range(250))
    assert (row.state, row.files_done, row.files_failed) == (TaskState.FAILED, 0, 250)
    assert "the files need more than is left" in row.info


async def test_copies_that_cannot_be_removed_now_are_removed_later(site: Site) -> None:
    tries = 0

    class Away(Stub):
        async def remove(self, task: Task, token: str, files: Sequence[File]) -> Removal:
            nonlocal tries
            tries += 1
            numbers = [file.number for file in files]
            return Removal(gone=numbers) if tries > 1 else Removal(gone=numbers[:1], later=numbers[1:])

    def tried_so_often(wanted: int, _: Any) -> bool:
        return tries == wanted

    task = await site.submit(lifetime=600)
    async with site.worker(Away(all_staged)):
        await site.final(task)
        for tried in (1, 2):
            async with site.ledger.engine.begin() as connection:
                await connection.execute(text("UPDATE tasks SET expires = now()"))
            await site.until(task, partial(tried_so_often, tried))
        row = await site.until(task, lambda row: row.expires is None)
    assert row.credential is None
    assert {file.state for file in await site.ledger.list_files(task)} == {FileState.RELEASED}


async def test_a_task_longer_than_the_lease_stays_with_its_worker(site: Site) -> None:
    site.leases(3)
    starts = 0

    async def act(job: Job, files: Sequence[File]) -> None:
        nonlocal starts
        starts += 1
        await asyncio.sleep(4)
        await all_staged(job, files)

    task = await site.submit()
    async with site.worker(Stub(act), "w1"), site.worker(Stub(act), "w2"):
        row = await site.final(task)
    assert (row.state, row.attempts, starts) == (TaskState.SUCCEEDED, 1, 1)


async def test_a_task_whose_lease_ran_out_goes_on_in_its_worker(site: Site) -> None:
    """As after a stall of the whole process: the lease is renewed, and no second run begins."""
    starts, going = 0, asyncio.Event()

    async def act(job: Job, files: Sequence[File]) -> None:
        nonlocal starts
        starts += 1
        await going.wait()
        await all_staged(job, files)

    task = await site.submit()
    async with site.worker(Stub(act)) as runner:
        await site.until(task, lambda _: starts)
        async with site.ledger.engine.begin() as connection:
            await connection.execute(text("UPDATE tasks SET lease = now() - interval '1 s'"))
        assert await site.ledger.claim("w1", 60, 1, 4, 32, tuple(runner.executor.running)) == []
        going.set()
        row = await site.final(task)
    assert (row.state, row.attempts, starts) == (TaskState.SUCCEEDED, 1, 1)


async def test_a_worker_whose_threads_are_busy_is_alive(site: Site) -> None:
    """And keeps its leases."""
    threads, going = ThreadPoolExecutor(1), threading.Event()
    asyncio.get_running_loop().set_default_executor(threads)
    threads.submit(going.wait)
    try:
        async with site.worker(Stub(all_staged)) as runner:
            heartbeat.PATH.unlink(missing_ok=True)
            async with asyncio.timeout(5):
                await runner.renew("w1", 60, [])
            assert heartbeat.healthy()
    finally:
        going.set()


async def test_many_tasks_side_by_side_each_staged_once(site: Site) -> None:
    staged: list[uuid.UUID] = []

    async def act(job: Job, files: Sequence[File]) -> None:
        staged.append(job.task.id)
        await asyncio.sleep(0.05)
        await all_staged(job, files)

    tasks = [await site.submit(2) for _ in range(40)]
    async with site.worker(Stub(act), "w1"), site.worker(Stub(act), "w2"):
        for task in tasks:
            assert (await site.final(task)).state == TaskState.SUCCEEDED
    assert sorted(staged) == sorted(tasks)


async def test_passing_failures_are_tried_again_and_lasting_ones_fail_every_file(site: Site) -> None:
    tries = 0

    async def act(job: Job, files: Sequence[File]) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise StagingError("TransferFailed", "Cavern is away", transient=True)
        if tries == 2:
            await job.retried([Outcome(0, FileState.FAILED, fault="NodeBusy", detail="busy")])
            await all_staged(job, files[1:])
            return
        raise StagingError("QuotaExceeded", "no room")

    task = await site.submit()
    async with site.worker(Stub(act)):
        row = await site.final(task)
    assert (row.state, row.info) == (TaskState.FAILED, "2 of 3 files staged; 1 failed: no room")
    first = (await site.ledger.list_files(task))[0]
    assert (first.state, first.fault, first.attempts) == (FileState.FAILED, "QuotaExceeded", 1)


@pytest.mark.parametrize(("outage", "state"), [(60, TaskState.SUCCEEDED), (0, TaskState.FAILED)])
async def test_a_cavern_that_is_away_is_waited_for(site: Site, outage: float, state: TaskState) -> None:
    """For longer than one file is tried again, but not for ever."""
    site.settings = site.settings.model_copy(
        update={"preparer_outage": outage, "preparer_retry_delay_max": 0.01}
    )
    tries = 0

    async def act(job: Job, files: Sequence[File]) -> None:
        nonlocal tries
        tries += 1
        if tries <= 3 * site.settings.preparer_file_attempts:
            raise StagingError("TransferFailed", "HTTP 503", transient=True)
        await all_staged(job, files)

    task = await site.submit()
    async with site.worker(Stub(act)):
        row = await site.final(task)
    assert (row.state, tries) == (state, 16 if outage else 1)


async def test_an_unexpected_error_costs_a_lease_and_not_the_worker(site: Site) -> None:
    site.leases(1)
    failures = 0

    async def act(job: Job, files: Sequence[File]) -> None:
        nonlocal failures
        if job.task.id == broken and failures == 0:
            failures += 1
            raise KeyError("what nobody thought of")
        await all_staged(job, files)

    broken = await site.submit()
    async with site.worker(Stub(act)):
        await site.until(broken, lambda _: failures == 1)
        assert (await site.final(await site.submit())).state == TaskState.SUCCEEDED
        row = await site.final(broken)
    assert (row.state, row.attempts) == (TaskState.SUCCEEDED, 2)


async def test_a_task_that_kills_its_workers_is_given_up(site: Site, tmp_path: Path) -> None:
    site.settings = site.settings.model_copy(update={"preparer_task_attempts": 2})
    site.leases(1)
    starts = 0

    async def act(_job: Job, _files: Sequence[File]) -> None:
        nonlocal starts
        starts += 1
        raise KeyError("what nobody thought of")

    task = await site.submit()
    async with site.worker(Stub(act)):
        row = await site.final(task)
        await site.until(task, lambda _: (tmp_path / f"{task}.json").exists())
    assert (row.state, row.info, starts) == (TaskState.LOST, "Given up after 2 workers were lost over it", 2)


async def test_a_stopped_worker_gives_its_tasks_back(site: Site) -> None:
    async def forever(job: Job, files: Sequence[File]) -> None:
        await job.ledger.record(job.task.id, [Outcome(0, FileState.STAGED, 10)])
        await asyncio.Event().wait()

    task = await site.submit()
    async with site.worker(Stub(forever), "w1"):
        await site.until(task, lambda row: row.files_done == 1)
    row = await site.ledger.task(task)
    assert row is not None
    assert (row.state, row.published) == (TaskState.QUEUED, False)
    async with site.worker(Stub(all_staged), "w2"):
        row = await site.final(task)
    assert (row.state, row.attempts, row.files_done) == (TaskState.SUCCEEDED, 1, 3)


async def test_cancelling_reaches_the_approach(site: Site) -> None:
    async def wait(job: Job, files: Sequence[File]) -> None:
        await job.ledger.record(job.task.id, [Outcome(0, FileState.STAGED, 10)])
        await job.cancelled.wait()

    task = await site.submit()
    async with site.worker(Stub(wait)):
        await site.until(task, lambda row: row.files_done == 1)
        await site.ledger.cancel(task)
        row = await site.final(task)
    assert (row.state, row.info) == (TaskState.CANCELLED, "Cancelled: 1 of 3 files staged")
    assert [file.state for file in await site.ledger.list_files(task)] == ["STAGED", "CANCELLED", "CANCELLED"]


async def test_a_credential_that_cannot_be_read_is_a_failure_that_says_so(site: Site) -> None:
    task = await site.submit()
    site.vault = Vault(site.settings.model_copy(update={"preparer_credential_key": _secret()}))
    async with site.worker(Stub(all_staged)):
        row = await site.final(task)
    assert row.state == TaskState.FAILED
    assert "cannot be read with the present key" in row.info


def _secret() -> Any:
    return type("Key", (), {"get_secret_value": lambda _: Fernet.generate_key().decode()})()


async def test_a_lifetime_that_ends_removes_the_copies_and_the_credential(site: Site) -> None:
    stub = Stub(all_staged)
    task = await site.submit(lifetime=600)
    async with site.worker(stub):
        assert (await site.final(task)).credential is not None
        async with site.ledger.engine.begin() as connection:
            await connection.execute(text("UPDATE tasks SET expires = now()"))
        row = await site.until(task, lambda row: row.expires is None)
    assert sorted(stub.removed) == [0, 1, 2]
    assert row.credential is None
    assert [file.state for file in await site.ledger.list_files(task)] == ["RELEASED", "STAGED", "RELEASED"]


async def test_callbacks_are_signed_and_repeated_until_they_are_taken(site: Site) -> None:
    told: list[tuple[str, bytes]] = []

    async def answer(request: web.Request) -> web.Response:
        told.append((request.headers["X-Prepare-Data-Signature"], await request.read()))
        return web.Response(status=500 if len(told) == 1 else 204)

    application = web.Application()
    application.add_routes([web.post("/done", answer)])
    server = web.AppRunner(application)
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{server.addresses[0][1]}/done"
    task = await site.submit(callback=url)
    refused = await site.submit(callback="http://elsewhere.example/done")
    async with site.worker(Stub(all_staged)):
        await site.until(task, lambda row: row.callback_status is not None)
        async with site.ledger.engine.begin() as connection:
            await connection.execute(
                text("UPDATE tasks SET callback_next = now() WHERE callback_next > now()")
            )
        row = await site.until(task, lambda row: row.callback_next is None and row.callback_attempts == 2)
        other = await site.until(refused, lambda row: row.callback_status is not None)
    await server.cleanup()
    assert row.callback_status == "204 No Content"
    assert "not an allowed host" in other.callback_status
    assert len(told) == 2
    signature, body = told[1]
    moment, given = (part.partition("=")[2] for part in signature.split(","))
    assert given == hmac.new(b"key", f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    assert json.loads(body)["id"] == str(task)
    assert b"token of ada" not in body


def test_a_worker_is_healthy_while_it_gives_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "PATH", tmp_path / "heartbeat")
    assert not heartbeat.healthy()
    heartbeat.beat()
    assert heartbeat.healthy()
    for left in (str(time.time() - heartbeat.AGE - 1), "", "nonsense"):
        heartbeat.PATH.write_text(left)
        assert not heartbeat.healthy()


async def brought_from_tape(job: Job, files: Sequence[File], settings: PreparerSettings) -> None:
    """Find the first file on tape, and the others on disk."""
    outcome = Outcome(0, FileState.FAILED, fault="StagingFromTape", detail="on its way")
    waits = [(file, outcome, None) for file in files if file.number == 0]
    await job.wait_for_tape(settings, waits)
    await all_staged(job, [file for file in files if file.number])


async def test_a_task_that_waits_for_tape_leaves_its_slot_to_others(site: Site) -> None:
    site.settings = site.settings.model_copy(
        update={"preparer_tape_delay": 600.0, "preparer_site_tasks": 1, "preparer_user_tasks": 1}
    )
    tapes = await site.submit()
    others: list[uuid.UUID] = []

    async def act(job: Job, files: Sequence[File]) -> None:
        if job.task.id == tapes:
            await brought_from_tape(job, files, site.settings)
        else:
            others.append(job.task.id)
            await all_staged(job, files)

    async with site.worker(Stub(act)):
        waiting = await site.until(tapes, lambda row: row.not_before is not None)
        assert (waiting.state, waiting.worker, waiting.info) == ("QUEUED", None, "Waiting for files on tape")
        assert (waiting.files_done, waiting.attempts) == (2, 0)
        other = await site.submit()
        assert (await site.final(other)).state == TaskState.SUCCEEDED
    assert others == [other]
    assert (await site.until(tapes, lambda _: True)).state == TaskState.QUEUED


async def test_the_wait_for_tape_goes_on_with_the_next_worker(site: Site) -> None:
    """It is that of the file, however many workers have asked meanwhile; the quota is looked at once."""
    site.settings = site.settings.model_copy(
        update={"preparer_tape_delay": 0.01, "preparer_retry_delay": 0.01, "preparer_tape_wait": 3600.0}
    )
    asked: list[str | None] = []

    async def act(job: Job, files: Sequence[File]) -> None:
        asked.append(job.task.worker)
        await brought_from_tape(job, files, site.settings)

    task = await site.submit()
    stub = Stub(act)
    async with site.worker(stub, "w1"):
        await site.until(task, lambda _: len(asked) >= 2)
    async with site.ledger.engine.begin() as connection:
        await connection.execute(text("UPDATE files SET tape_since = tape_since - interval '1 hour'"))
    async with site.worker(stub, "w2"):
        assert (await site.final(task)).state == TaskState.FAILED
    assert asked[-1] == "w2"
    assert stub.admitted == 1
    first, *rest = await site.ledger.list_files(task)
    assert (first.state, first.fault, first.attempts) == (FileState.FAILED, "StagingFromTape", 0)
    assert {file.state for file in rest} == {FileState.STAGED}
    # Asked for again, it has all of the time again.
    assert await site.ledger.retry(task, site.vault.encrypt("token of ada"), None) == 1
    (again,) = await site.ledger.pending(task, 10)
    assert (again.tape_since, again.not_before) == (None, None)


async def test_staging_goes_on_in_the_trace_of_the_request(site: Site) -> None:
    interrupted = asyncio.Event()

    async def dies(_job: Job, _files: Sequence[File]) -> None:
        interrupted.set()
        await asyncio.Event().wait()

    with collecting() as collector:
        settings = site.settings.model_copy(update={"traces_endpoint": collector.url})
        tracing.configure("core", settings)
        with tracing.resumed("POST /v1/tasks", None):
            task = await site.submit()
        (waiting,) = await site.ledger.unpublished()
        assert waiting[0] == task
        tracing.close()
        tracing.configure("worker", settings)
        # The second worker goes on with what the first gave back.
        async with site.worker(Stub(dies)):
            await interrupted.wait()
        async with site.worker(Stub(all_staged), "w2"):
            assert (await site.final(task)).state == TaskState.SUCCEEDED
        tracing.close()
    post, *others = collector.spans()
    assert waiting[1] is not None
    assert post.id in waiting[1]
    assert {span.trace for span in others} == {post.trace}
    assert {span.parent for span in others} == {post.id}
    assert [span.name for span in others if span.name == "stage"] == ["stage", "stage"]
    assert "wait" in [span.name for span in others]
    last = others[-1].attributes
    assert (last["task"], last["approach"], last["state"]) == (str(task), "stub", "SUCCEEDED")
