"""What one user, and who has no name, may take of jobs: everybody else goes on."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from vospace.bulk.request import MAX_VALUE, RequestReader
from vospace.models.errors import InvalidArgument, TooManyRequests
from vospace.uws.executor import Executor, Pool, Run
from vospace.uws.model import Limits, Outcome, Share
from vospace.uws.service import JobService, Owner
from vospace.uws.store import JobStore
from vospace_client.terms import ExecutionPhase

ADA, BOB, NOBODY = Owner("ada", {}), Owner("bob", {}), Owner(None, None)
LIMITS = {"test": Limits(execution=3600, destruction=86400)}
ROOT = "vos://opencadc.org~cavern"
CORE = "ivo://ivoa.net/vospace/core#"
ROW = {"source": "http://s/x", "target": f"{ROOT}/box/x"}
DELETION = {"target": f"{ROOT}/box"}


def transfer(target: str, direction: str, protocol: str = "httpsget") -> str:
    return (
        '<vos:transfer xmlns:vos="http://www.ivoa.net/xml/VOSpace/v2.0">'
        f"<vos:target>{ROOT}{target}</vos:target><vos:direction>{direction}</vos:direction>"
        f'<vos:protocol uri="{CORE}{protocol}"/></vos:transfer>'
    )


@pytest.fixture
def jobs(engine, make_notices) -> JobService:
    store = JobStore(engine, Share(waiting=3, size=300_000))
    return JobService(store, make_notices(), LIMITS, anonymous_destruction=60)


async def test_a_user_has_so_many_jobs_that_wait(jobs):
    made = [await jobs.create(jobs.new("test", ADA)) for _ in range(3)]
    with pytest.raises(TooManyRequests, match="3 jobs of yours wait"):
        await jobs.create(jobs.new("test", ADA))
    await jobs.create(jobs.new("test", BOB))
    await jobs.create(jobs.new("test", ADA, phase=ExecutionPhase.EXECUTING))
    await jobs.abort(made[0])
    await jobs.create(jobs.new("test", ADA))


async def test_large_requests_of_a_user_are_kept_up_to_a_size(jobs):
    large = [replace(jobs.new("test", ADA), size=100_000) for _ in range(3)]
    for job in large:
        await jobs.create_ended(job, ExecutionPhase.COMPLETED, ())
    with pytest.raises(TooManyRequests, match="300000 bytes of your requests are kept"):
        await jobs.create_ended(replace(jobs.new("test", ADA), size=70_000), ExecutionPhase.COMPLETED, ())
    await jobs.create(jobs.new("test", ADA, job_info="x" * 1000))
    await jobs.create(replace(jobs.new("test", BOB), size=100_000))
    await jobs.delete(large[0])
    await jobs.create_ended(replace(jobs.new("test", ADA), size=70_000), ExecutionPhase.COMPLETED, ())


async def test_jobs_that_nobody_owns_are_soon_gone(jobs):
    job = await jobs.create(jobs.new("test", NOBODY))
    assert (job.destruction_time - job.creation_time).total_seconds() == 60
    longer = await jobs.set_destruction(job, job.creation_time.replace(year=job.creation_time.year + 1))
    assert longer.destruction_time == job.destruction_time
    later = [await jobs.create(jobs.new("test", NOBODY)) for _ in range(4)]
    mine = await jobs.create(jobs.new("test", ADA))
    assert await jobs.store.drop_anonymous(2) == 3
    kept = [job.id for job in [job, *later, mine] if await jobs.store.get(job.id)]
    assert kept == [later[2].id, later[3].id, mine.id]


async def test_one_user_leaves_slots_to_others(jobs, make_notices, eventually):
    going = asyncio.Event()
    running: list[str] = []

    async def runner(run: Run) -> Outcome:
        running.append(str(run.job.owner))
        await going.wait()
        return Outcome()

    notices = make_notices()
    await notices.start()
    executor = Executor(jobs.store, notices, [Pool(4, {"test": runner}, most=2)], lease=5)
    await executor.start()
    try:
        for _ in range(3):
            await jobs.run(await jobs.create(jobs.new("test", ADA)))
        await eventually(lambda: running == ["ada", "ada"])
        await jobs.run(await jobs.create(jobs.new("test", BOB)))
        await eventually(lambda: running == ["ada", "ada", "bob"])
        going.set()
        await eventually(lambda: running == ["ada", "ada", "bob", "ada"])
    finally:
        await executor.stop()


# -- over HTTP -----------------------------------------------------------------------------------------------


async def test_who_has_no_name_stores_nothing_but_what_may_be_read(service):
    await service.container("/box", public=True)
    await service.container("/own")
    await service.put("/box/f", b"public")
    await service.put("/own/f", b"private")
    await service.client.post(
        f"{service.url}/nodes/box/f",
        content='<vos:node xmlns:vos="http://www.ivoa.net/xml/VOSpace/v2.0" xsi:type="vos:DataNode"'
        f' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" uri="{ROOT}/box/f"><vos:properties>'
        f'<vos:property uri="{CORE}ispublic">true</vos:property></vos:properties></vos:node>',
        headers=service.as_user("ada"),
    )
    kind = {"Content-Type": "text/xml"}
    for path in ("/transfers", "/synctrans", "/pkg"):
        for document, status in (
            (transfer("/box/f", "pullFromVoSpace"), 303),
            (transfer("/own/f", "pullFromVoSpace"), 403),
            (transfer("/box/none", "pullFromVoSpace"), 404),
            (transfer("/box/new", "pushToVoSpace", "httpsput"), 403),
            (transfer("/box/new", "pullToVoSpace", "httpget"), 403),
            (transfer("/box/f", f"{ROOT}/box/g"), 403),
            (transfer("/box/f", "pullFromVoSpace") + " " * 20_000, 413),
        ):
            answer = await service.client.post(service.url + path, content=document, headers=kind)
            assert answer.status_code == status, (path, document, answer.text)
    job = await service.submit(transfer("/box/f", "pullFromVoSpace"), user="", run=False)
    answer = await service.client.post(f"{job}/parameters", data={"note": "x" * 100_000})
    assert answer.status_code in (400, 413)
    answer = await service.client.post(f"{job}/parameters", data={"note": "x"})
    assert (answer.status_code, answer.text) == (
        400,
        "InvalidArgument: note is no parameter of transfers: there are none\n",
    )


@pytest.mark.parametrize(
    ("path", "given", "wanted", "named"),
    [
        ("bulk-pull", {"concurrency": "5000"}, 400, "concurrency"),
        ("bulk-pull", {"concurrency": "abc"}, 400, "concurrency"),
        ("bulk-pull", {"concurrency": "٣"}, 400, "concurrency"),
        ("bulk-pull", {"CONCURRENCY": "0"}, 400, "concurrency"),
        ("bulk-pull", {"if_exists": "bogus"}, 400, "if_exists"),
        ("bulk-pull", {"rows": "7"}, 400, "rows"),
        ("bulk-pull", {"note": "x"}, 400, "note"),
        ("bulk-pull", {"concurrency": "3", "If_Exists": "fail"}, 303, None),
        ("async-delete", {"target": "nonsense"}, 400, "target"),
        ("async-delete", {"note": "x"}, 400, "note"),
        ("async-delete", {"target": f"{ROOT}/box/sub"}, 303, None),
        ("async-setprops", {"target": f"{ROOT}/box/sub"}, 400, "target"),
        ("transfers", {"TARGET": f"{ROOT}/box/sub"}, 400, "TARGET"),
    ],
)
async def test_parameters_are_checked_before_a_job_has_them(service, path, given, wanted, named):
    ada = service.as_user("ada")
    if path == "bulk-pull":
        answer = await service.client.post(f"{service.url}/{path}", json={"rows": [ROW]}, headers=ada)
    elif path == "async-delete":
        answer = await service.client.post(f"{service.url}/{path}", data=DELETION, headers=ada)
    else:
        document = transfer("/box/f", "pullFromVoSpace")
        if path == "async-setprops":
            document = (
                '<vos:node xmlns:vos="http://www.ivoa.net/xml/VOSpace/v2.0" xsi:type="vos:ContainerNode"'
                f' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" uri="{ROOT}/box"/>'
            )
        headers = ada | {"Content-Type": "text/xml"}
        answer = await service.client.post(f"{service.url}/{path}", content=document, headers=headers)
    job = answer.headers["location"]
    before = (await service.client.get(f"{job}/parameters", headers=ada)).text
    for url, data in ((f"{job}/parameters", given), (job, given | {"PHASE": "RUN"})):
        answer = await service.client.post(url, data=data, headers=ada)
        assert answer.status_code == wanted, answer.text
        if named is not None:
            assert named in answer.text
            assert (await service.client.get(f"{job}/phase", headers=ada)).text == "PENDING"
            assert (await service.client.get(f"{job}/parameters", headers=ada)).text == before
        else:
            shown = (await service.client.get(f"{job}/parameters", headers=ada)).text
            assert all(f">{value}<" in shown for value in given.values())
            return


@pytest.mark.parametrize(
    ("path", "query", "form", "named"),
    [
        ("async-delete", "", {"target": "vos://elsewhere~cavern/x"}, "target"),
        ("async-delete", "", DELETION | {"note": "x"}, "note"),
        ("async-delete", "?PHASE=START", DELETION, "PHASE"),
        ("async-delete", "?RUNID=" + "x" * 300, DELETION, "RUNID"),
        ("transfers", "?PHASE=ABORT", transfer("/box/f", "pullFromVoSpace"), "PHASE"),
        ("transfers", "?RUNID=" + "x" * 300, transfer("/box/f", "pullFromVoSpace"), "RUNID"),
        ("bulk-pull", "?PHASE=START", json.dumps({"rows": [ROW]}), "PHASE"),
        (
            "synctrans",
            "",
            transfer("/box/f", "pullFromVoSpace").replace(
                "<vos:protocol",
                '<vos:view uri="vos://cadc.nrc.ca~vospace/CADC/std/Pkg-1.0">'
                f'<vos:param uri="{CORE}format">text/html</vos:param></vos:view><vos:protocol',
            ),
            f"{CORE}format",
        ),
    ],
)
async def test_parameters_are_checked_before_there_is_a_job(service, path, query, form, named):
    headers = service.as_user("ada")
    url = f"{service.url}/{path}{query}"
    if isinstance(form, dict):
        answer = await service.client.post(url, data=form, headers=headers)
    else:
        kind = "application/json" if path == "bulk-pull" else "text/xml"
        answer = await service.client.post(url, content=form, headers=headers | {"Content-Type": kind})
    assert answer.status_code == 400, answer.text
    assert named in answer.text
    for listed in ("async-delete", "transfers", "bulk-pull", "pkg"):
        jobs = await service.client.get(f"{service.url}/{listed}", headers=headers)
        assert "jobref" not in jobs.text


async def test_requests_that_do_not_come_hold_nothing(make_service):
    """Bodies of a bulk pull wait in files until they are whole; one user sends so many at a time."""
    service = await make_service(VOSPACE_USER_BODIES="2")
    head = (
        "POST /src/cavern/bulk-pull HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Content-Length: 1000000\r\nAuthorization: Bearer {}\r\n\r\n"
    )
    held = []
    try:
        for user, sent in [("ada", 1000)] * 8 + [("ada", 100_000)] * 2:
            _, writer = await asyncio.open_connection("127.0.0.1", service.port)
            writer.write(head.format(user).encode() + b'{"rows": [' + b" " * sent)
            await writer.drain()
            held.append(writer)
        answer = await service.client.post(
            f"{service.url}/bulk-pull", json={"rows": [ROW]}, headers=service.as_user("bob")
        )
        assert answer.status_code == 303
        rows = [ROW | {"target": f"{ROOT}/box/{number}"} for number in range(2000)]
        answer = await service.client.post(
            f"{service.url}/bulk-pull", json={"rows": rows}, headers=service.as_user("bob")
        )
        assert answer.status_code == 303
        while answer.status_code == 303:  # until both of the others are seen to be long
            answer = await service.client.post(
                f"{service.url}/bulk-pull", json={"rows": rows}, headers=service.as_user("ada")
            )
        assert answer.status_code == 429
        assert answer.text.startswith("TooManyRequests: 2 large requests of yours are on their way")
        assert answer.headers["Retry-After"]
    finally:
        for writer in held:
            writer.close()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b'{"rows":[{"source":"a","target":"b","size":' + b"1" * 5_000_000 + b"}]}", "value of more than"),
        (b'{"rows":[{"source":"a","target":"b","size":' + b"1" * 5_000 + b"}]}", "number that is too large"),
        (b'{"concurrency":' + b"1" * 5_000 + b"}", "number that is too large"),
        (b'{"rows":[{"source":"a","target":"b","size":1e99999999999999999999999999}]}', "too large"),
        (b'{"rows":[{"source":"a","target":"b","size":1e400}]}', "rows[0].size"),
        (b'{"rows":[{"source":"' + b"a" * MAX_VALUE * 2 + b'"}]}', "value of more than"),
        (b'{"' + b"a" * MAX_VALUE * 2 + b'":1}', "value of more than"),
        (b'{"rows":[{' + b'"x":1,' * 500_000, "rows[0]: unknown field 'x'"),
        (b"[" * 1_000_000, "expected an object"),
        (b'{"rows":' * 100_000, "unexpected rows"),
        (b'{"rows":[{"source":"a","target":"b","size":NaN}]}', "not JSON"),
    ],
)
def test_a_list_of_any_shape_is_refused_at_once(content: bytes, named: str) -> None:
    def read() -> None:
        reader = RequestReader(100)
        for start in range(0, len(content), 65_536):
            reader.feed(content[start : start + 65_536])
        reader.end()

    with pytest.raises(InvalidArgument) as caught:
        read()
    assert named in caught.value.detail
    assert len(caught.value.detail) < 300
