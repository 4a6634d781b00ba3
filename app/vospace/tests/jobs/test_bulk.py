"""Bulk pull over HTTP, by services in processes of their own and a real source."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import zlib

import asyncpg
import httpx
import pytest
from vospace.bulk.request import RequestReader
from vospace.models.errors import InvalidArgument, RequestTooLarge

ROOT = "vos://opencadc.org~cavern"
SEED = int(os.environ.get("TEST_SEED", "1"))
"""Of the points at which the service is killed."""


def body_of(number: int) -> bytes:
    return f"file {number} ".encode() * (number % 50 + 1)


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def row(source, number: int, changes: dict | None = None, folder: str = "box/a/b") -> dict:
    """One good row, with changes."""
    content = body_of(number)
    source.files[f"/d/{number}"] = content
    return {
        "source": source.url(f"/d/{number}"),
        "target": f"{ROOT}/{folder}/{number}",
        "size": len(content),
        "md5": md5(content),
        "adler32": f"{zlib.adler32(content):08x}",
    } | (changes or {})


async def submit(service, rows, user="ada", run=True, **options) -> str:
    answer = await service.client.post(
        f"{service.url}/bulk-pull{'?PHASE=RUN' if run else ''}",
        json={"rows": rows, **options},
        headers=service.as_user(user),
    )
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


async def results(service, job: str, **parameters) -> list[dict]:
    answer = await service.client.get(
        f"{job}/results/files", params=parameters, headers=service.as_user("ada")
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_files_arrive_in_containers_made_for_them(service, source):
    rows = [row(source, n, folder=f"box/{n % 7}") for n in range(300)]
    job = await submit(service, rows)
    lines = await results(service, job)
    assert await service.ended(job) == "COMPLETED"
    assert sorted(line["row"] for line in lines) == list(range(300))
    assert [line["event"] for line in lines] == list(range(1, 301))
    for line in lines:
        content = body_of(line["row"])
        assert (line["state"], line["bytes"], line["md5"], line["fault"]) == (
            "COMPLETED",
            len(content),
            md5(content),
            None,
        )
        path = service.file(line["target"].removeprefix(ROOT))
        assert path.read_bytes() == content
        assert path.stat().st_uid == 10001
        assert os.getxattr(path, "user.ivo://ivoa.net/vospace/core#MD5").decode() == md5(content)
    assert await results(service, job, **{"from": 290, "follow": "false"}) == lines[290:]


async def test_what_is_there_and_right_is_skipped(service, source):
    rows = [row(source, n) for n in range(10)]
    assert await service.ended(await submit(service, rows)) == "COMPLETED"
    source.requests.clear()
    service.file("box/a/b/3").write_bytes(b"changed behind the service's back")
    lines = await results(service, await submit(service, rows))
    assert {line["row"]: line["state"] for line in lines} == {
        n: "COMPLETED" if n == 3 else "SKIPPED" for n in range(10)
    }
    assert len(source.requests) == 1
    assert service.file("box/a/b/3").read_bytes() == body_of(3)
    bare = [{"source": r["source"], "target": r["target"]} for r in rows]
    inode = service.file("box/a/b/0").stat().st_ino
    assert {line["state"] for line in await results(service, await submit(service, bare))} == {"SKIPPED"}
    assert service.file("box/a/b/0").stat().st_ino == inode
    lines = await results(service, await submit(service, rows, if_exists="fail"))
    assert {line["fault"] for line in lines} == {"DuplicateNode"}
    lines = await results(service, await submit(service, rows, if_exists="replace"))
    assert {line["state"] for line in lines} == {"COMPLETED"}


async def test_each_row_tells_its_own_fault(service, source):
    await service.container("/other", user="bob", public=True)
    await service.container("/box")
    await service.container("/box/dir")
    rows = [
        row(source, 0),
        row(source, 1, {"source": source.url("/d/none")}),
        row(source, 2, {"md5": "0" * 32}),
        row(source, 3, {"size": 1}),
        row(source, 4, {"source": "http://elsewhere.example/d/4"}),
        row(source, 5, {"target": f"{ROOT}/other/5"}),
        row(source, 6, {"target": "vos://elsewhere.org~cavern/6"}),
        row(source, 7, {"target": f"{ROOT}/box/dir"}),
        row(source, 8, {"target": f"{ROOT}/box/../8"}),
        row(source, 9),
    ]
    job = await submit(service, rows)
    lines = {line["row"]: line for line in await results(service, job)}
    assert {n: line["fault"] for n, line in lines.items()} == {
        0: None,
        1: "SourceNotFound",
        2: "ChecksumMismatch",
        3: "SizeMismatch",
        4: "InvalidArgument",
        5: "PermissionDenied",
        6: "InvalidURI",
        7: "InvalidArgument",
        8: "InvalidURI",
        9: None,
    }
    assert await service.ended(job) == "ERROR"
    assert (await service.error(job)).startswith("TransferFailed: 8 of 10 files failed: ")
    assert sorted(os.listdir(service.file("box/a/b"))) == ["0", "9"]
    assert os.listdir(service.file("other")) == []


async def test_large_and_empty_files(service, source):
    rows = [row(source, n) for n in range(4)]
    big = os.urandom(3 << 20)
    source.files["/d/big"] = big
    source.files["/d/empty"] = b""
    rows.append({"source": source.url("/d/big"), "target": f"{ROOT}/box/big", "md5": md5(big)})
    rows.append({"source": source.url("/d/empty"), "target": f"{ROOT}/box/empty", "size": 0})
    source.script = ["serve", "serve", "cut:1000000"]
    job = await submit(service, rows, concurrency=1)
    assert {line["state"] for line in await results(service, job)} == {"COMPLETED"}
    assert service.file("box/big").read_bytes() == big
    assert service.file("box/empty").read_bytes() == b""


async def test_results_stream_while_the_job_runs(service, source):
    rows = [row(source, n) for n in range(30)]
    source.delay = 0.05
    job = await submit(service, rows, concurrency=1)
    seen, phases = 0, set()
    async with service.client.stream("GET", f"{job}/results/files", headers=service.as_user("ada")) as answer:
        async for _ in answer.aiter_lines():
            seen += 1
            phases.add((await service.client.get(f"{job}/phase", headers=service.as_user("ada"))).text)
    assert seen == 30
    assert "EXECUTING" in phases


async def test_abort_tells_what_was_not_fetched(service, source, eventually):
    rows = [row(source, n) for n in range(50)]
    source.delay = 0.05
    job = await submit(service, rows, concurrency=2)
    await eventually(lambda: results(service, job, follow="false"))
    await service.client.post(f"{job}/phase", data={"PHASE": "ABORT"}, headers=service.as_user("ada"))
    lines = await results(service, job)
    assert await service.ended(job) == "ABORTED"
    assert sorted(line["row"] for line in lines) == list(range(50))
    done = {line["target"].rsplit("/", 1)[1] for line in lines if line["state"] == "COMPLETED"}
    assert {line["state"] for line in lines} == {"COMPLETED", "ABORTED"}
    assert set(os.listdir(service.file("box/a/b"))) == done


async def test_a_quota_stops_a_bulk_pull(service, source):
    await service.container("/box")
    os.setxattr(service.file("box"), "user.ivo://ivoa.net/vospace/core#quota", b"1000")
    lines = await results(service, await submit(service, [row(source, n, folder="box") for n in range(50)]))
    assert {line["fault"] for line in lines} == {None, "QuotaExceeded"}
    assert sum(entry.stat().st_size for entry in os.scandir(service.file("box"))) <= 1000


async def test_bad_requests_make_no_job(service, source):
    good = row(source, 1)
    for document, problem in (
        ({}, "rows is missing"),
        ({"rows": []}, "rows is empty"),
        ({"rows": {}}, "expected an object with rows"),
        ({"rows": [good, 5]}, "rows[1] must be an object"),
        ({"rows": [good, {"source": "x"}]}, "rows[1].target"),
        ({"rows": [good | {"size": -1}]}, "rows[0].size"),
        ({"rows": [good | {"md5": "zz"}]}, "rows[0].md5"),
        ({"rows": [good | {"nope": 1}]}, "rows[0]: unknown field 'nope'"),
        ({"rows": [good | {"source": {"a": 1}}]}, "rows[0].source"),
        ({"rows": [good], "if_exists": "maybe"}, "if_exists"),
        ({"rows": [good], "concurrency": 0}, "concurrency"),
        ({"rows": [good], "unknown": 0}, "unknown field"),
        ([], "expected an object with rows"),
    ):
        answer = await service.client.post(
            f"{service.url}/bulk-pull", json=document, headers=service.as_user("ada")
        )
        assert (answer.status_code, problem in answer.text) == (400, True), answer.text
    answer = await service.client.post(
        f"{service.url}/bulk-pull", content=b'{"rows": [', headers=service.as_user("ada")
    )
    assert answer.status_code == 400
    assert (await service.client.post(f"{service.url}/bulk-pull", json={"rows": [good]})).status_code == 403
    listing = await service.client.get(f"{service.url}/bulk-pull", headers=service.as_user("ada"))
    assert "jobref" not in listing.text


def test_a_request_is_read_in_pieces_of_any_size():
    rows = [{"source": f"http://s/{n}", "target": f"vos://x~y/é{n}", "size": n} for n in range(100)]
    content = json.dumps({"concurrency": 3, "rows": rows, "if_exists": "fail"}, ensure_ascii=False).encode()
    for step in (1, 7, 1000, len(content)):
        reader = RequestReader(max_rows=100)
        for start in range(0, len(content), step):
            reader.feed(content[start : start + step])
        reader.end()
        taken = reader.take()
        assert [(r[0], r[2], r[3]) for r in taken] == [(n, f"vos://x~y/é{n}", n) for n in range(100)]
        assert (reader.concurrency, reader.if_exists) == (3, "fail")
    small = RequestReader(max_rows=99)
    with pytest.raises(RequestTooLarge):
        small.feed(content)
    cut = RequestReader(max_rows=100)
    cut.feed(content[:-1])
    with pytest.raises(InvalidArgument):
        cut.end()


async def test_two_processes_share_the_work_and_one_survives(make_service, source, eventually):
    first, second = [await make_service(VOSPACE_JOB_LEASE="1") for _ in range(2)]
    source.delay = 0.02
    jobs = [
        await submit(first, [row(source, n, folder=f"box/{j}") for n in range(40)], concurrency=2)
        for j in range(4)
    ]
    await eventually(lambda: results(second, jobs[0].replace(first.url, second.url), follow="false"))
    await first.kill()
    for number, job in enumerate(jobs):
        there = job.replace(first.url, second.url)
        lines = await results(second, there)
        assert sorted(line["row"] for line in lines) == list(range(40))
        assert {line["state"] for line in lines} == {"COMPLETED"}
        assert await second.ended(there) == "COMPLETED"
        for n in range(40):
            assert second.file(f"box/{number}/{n}").read_bytes() == body_of(n)


async def test_a_closed_reader_does_no_harm(service, source):
    source.delay = 0.05
    job = await submit(service, [row(source, n) for n in range(20)], concurrency=1)
    with pytest.raises(httpx.ReadTimeout):
        await service.client.get(
            f"{job}/results/files", headers=service.as_user("ada"), timeout=httpx.Timeout(5, read=0.01)
        )
    assert await service.ended(job) == "COMPLETED"


@pytest.mark.timeout(120)
async def test_a_job_that_loses_the_database_with_much_to_do_goes_on(mortal, source, eventually):
    """More rows are resolved than are fetched when the first batch cannot be written."""
    source.delay = 0.01
    rows = [row(source, n) for n in range(1500)]
    connection = await asyncpg.connect(mortal.environment["DATABASE_URL"])
    job = await submit(mortal, rows, concurrency=4)
    await eventually(lambda: results(mortal, job, follow="false"))
    await connection.execute("ALTER TABLE vospace.bulk_row RENAME TO away")
    await eventually(lambda: "The job lost the database" in mortal.log.read_text())
    await connection.execute("ALTER TABLE vospace.away RENAME TO bulk_row")
    await connection.close()
    source.delay = 0
    assert await mortal.ended(job) == "COMPLETED"
    lines = await results(mortal, job)
    assert sorted(line["row"] for line in lines) == list(range(1500))
    assert mortal.leftovers() == []


async def bulk_under_kills(service, source, kills: int, files: int, if_exists: str) -> None:
    chance = random.Random(SEED)
    source.delay = 0.002
    rows = [row(source, n, folder=f"bulk/{n % 5}") for n in range(files)]
    job = await submit(service, rows, concurrency=8, if_exists=if_exists)
    seen: list[dict] = []
    for _ in range(kills):
        await asyncio.sleep(chance.uniform(0.05, 0.6))
        await service.kill()
        await service.start()
        for _, _, names in os.walk(service.file("bulk")):
            for name in names:
                assert name.startswith(".vospace-") or name.isdecimal()
        seen += await some_results(service, job, seen)
        for line in seen:
            content = service.file(line["target"].removeprefix(ROOT)).read_bytes()
            assert content == body_of(line["row"]), "a row that was told must be there, whole"
        phase = (await service.client.get(f"{job}/phase", headers=service.as_user("ada"))).text
        if phase not in ("QUEUED", "EXECUTING"):
            break
    source.delay = 0
    assert await service.ended(job) == "COMPLETED", await service.error(job)
    seen += await some_results(service, job, seen)
    assert sorted(line["row"] for line in seen) == list(range(files))
    assert [line["event"] for line in seen] == list(range(1, files + 1))
    assert {line["state"] for line in seen} == {"COMPLETED"}, (
        "a row was put in place by this job, not found there"
    )
    for n in range(files):
        assert service.file(f"bulk/{n % 5}/{n}").read_bytes() == body_of(n)
    assert service.leftovers() == []


async def some_results(service, job: str, seen: list[dict]) -> list[dict]:
    answer = await service.client.get(
        f"{job}/results/files", params={"from": len(seen), "follow": "false"}, headers=service.as_user("ada")
    )
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.mark.parametrize("if_exists", ["verify", "fail"])
async def test_kill_during_a_bulk_pull(mortal, source, if_exists):
    await bulk_under_kills(mortal, source, kills=4, files=1500, if_exists=if_exists)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("if_exists", ["verify", "fail"])
async def test_kill_during_a_bulk_pull_50_times(mortal, source, if_exists):
    await bulk_under_kills(mortal, source, kills=50, files=40_000, if_exists=if_exists)
