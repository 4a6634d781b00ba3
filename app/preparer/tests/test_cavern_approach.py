"""Staging through a Cavern without bulk pull: by its single pulls, and by relay where it cannot pull at all."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import uuid
import zlib
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cavern_double import CavernDouble
from ledger_double import ledger
from preparer.areas import Areas
from preparer.config import PreparerSettings
from preparer.ledger import FileState, Outcome
from preparer.staging.approach import Job, StagingError
from preparer.staging.rse import Rses
from preparer.staging.vospace import CavernApproach
from vospace_client.client import Cavern, fault

CONTENT = {"a.dat": b"a" * 3_000_000, "b.dat": b"bb", "empty.dat": b""}
CORE = "ivo://ivoa.net/vospace/core#"
INHERIT = "ivo://cadc.nrc.ca/vospace/core#inheritPermissions"
RELAY = pytest.mark.parametrize("stage", [False], ids=["relay"], indirect=True)


class Stage:
    """An approach at a stand-in, and what it reported."""

    def __init__(self, stand_in: CavernDouble, approach: CavernApproach) -> None:
        """Nothing is reported yet."""
        self.stand_in = stand_in
        self.approach = approach
        self.outcomes: dict[int, Outcome] = {}
        self.retried: list[Outcome] = []
        self.cancelled = asyncio.Event()

    async def __call__(self, *files: Any) -> None:
        async def report(outcomes: Sequence[Outcome]) -> None:
            for outcome in outcomes:
                assert outcome.number not in self.outcomes
                self.outcomes[outcome.number] = outcome

        async def retried(failures: Sequence[Outcome]) -> None:
            self.retried += failures

        async def remember(job: str | None, event: int) -> None:
            raise AssertionError("there is no bulk job to remember")

        task: Any = SimpleNamespace(id=uuid.uuid4(), username="ada", worker="w", job=None, job_event=0)
        job = Job(task, "token", ledger(report, retried, remember), self.cancelled)

        async def pages() -> AsyncIterator[Sequence[Any]]:
            yield files

        await self.approach.admit(job, pages())
        await self.approach.stage(job, files)


def file(number: int, name: str, **known: Any) -> Any:
    """A pending file of the ledger."""
    fields: dict[str, Any] = {"size": None, "md5": None, "adler32": None, "attempts": 0, "rse": None}
    fields |= {"did": f"s:{name}"}
    fields |= {"path": f"s/{name}", "target": f"/home/ada/run/{name}"}
    return SimpleNamespace(number=number, **(fields | known))


@pytest.fixture(params=[True, False], ids=["pull", "relay"])
async def stage(request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    stand_in = CavernDouble(CONTENT, request.param)
    runner = web.AppRunner(stand_in.application())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    settings = PreparerSettings(
        cavern_api_url=f"{url}/cavern",
        abs_url_rse_root=f"{url}/rse",
        cavern_api_token="administrator",
        preparer_retry_delay=0.01,
    )
    async with aiohttp.ClientSession() as session, Rses(settings) as rses:
        cavern = Cavern(settings.cavern_api_url, settings.preparer_vos_uri, session)
        yield Stage(stand_in, CavernApproach(settings, cavern, rses, None))
    await runner.cleanup()


async def test_files_arrive_with_their_checksums(stage: Stage) -> None:
    await stage(*(file(number, name) for number, name in enumerate(CONTENT)))
    for number, (name, content) in enumerate(CONTENT.items()):
        outcome = stage.outcomes[number]
        assert (outcome.state, outcome.bytes) == (FileState.STAGED, len(content))
        assert outcome.md5 == hashlib.md5(content, usedforsecurity=False).hexdigest()
        assert stage.stand_in.nodes[f"/home/ada/run/{name}"] == content
        if not stage.stand_in.pulls:
            assert outcome.adler32 == f"{zlib.adler32(content):08x}"
    # Each container once, and nothing else left.
    assert stage.stand_in.made == ["/home/ada", "/home/ada/run"]
    assert len(stage.stand_in.nodes) == 3 + len(CONTENT)
    assert bool(stage.stand_in.relayed) is not stage.stand_in.pulls


async def test_an_area_is_made_by_its_user_or_else_by_the_administrator(stage: Stage) -> None:
    double = stage.stand_in
    await stage(file(0, "a.dat"))
    assert double.makers["/home/ada"] == "token"
    for node in [path for path in double.nodes if path != "/home"]:
        del double.nodes[node]
    double.administered.add("/home/ada")
    await stage(file(1, "a.dat"))
    assert double.makers["/home/ada"] == "administrator"
    del double.nodes["/home/ada"]
    stage.approach.areas = Areas(PreparerSettings(), stage.approach.cavern, None)
    with pytest.raises(StagingError, match="no credential of its administrator is configured"):
        await stage(file(2, "a.dat"))


ODD_NAMES = (
    "col%43",
    "colC",
    "a%2Fb",
    "100%",
    "x+y",
    "q?x",
    "h#x",
    "p;q",
    " a b ",
    "'\"&<",
    "é",
    "e\u0301",
    "☃",
    "%%",
)


async def test_names_are_taken_as_they_are(stage: Stage) -> None:
    """In the directory and in the file, on the way there, in listings and when copies are removed."""
    files = [
        file(number, "b.dat", target=f"/home/ada/run/{name}/{name}", size=2)
        for number, name in enumerate(ODD_NAMES)
    ]
    await stage(*files)
    assert [outcome.state for outcome in stage.outcomes.values()] == [FileState.STAGED] * len(files)
    nodes = stage.stand_in.nodes
    assert {path for path, content in nodes.items() if content is not None} == {file.target for file in files}
    for name in ODD_NAMES:
        assert list(await stage.approach.cavern.children(f"/home/ada/run/{name}", "token")) == [name]
    task: Any = SimpleNamespace(id=uuid.uuid4(), username="ada")
    copies = [file(n, "", target=entry.target, bytes=2, found_md5=None) for n, entry in enumerate(files)]
    assert len((await stage.approach.remove(task, "token", copies)).gone) == len(files)
    assert not any(nodes.values())


async def test_what_is_missing_fails_alone_and_at_once(stage: Stage) -> None:
    await stage(file(0, "missing.dat"), file(1, "b.dat"))
    assert (stage.outcomes[0].state, stage.outcomes[0].fault) == (FileState.FAILED, "SourceNotFound")
    assert stage.outcomes[1].state == FileState.STAGED
    assert stage.retried == []


@pytest.mark.parametrize(
    ("known", "fault"),
    [
        ({"size": 3}, "SizeMismatch"),
        ({"md5": "0" * 32}, "ChecksumMismatch"),
        # Which this Cavern does not keep: it is read back after a pull.
        ({"adler32": "0" * 8}, "ChecksumMismatch"),
    ],
)
async def test_a_mismatch_fails_and_leaves_nothing_behind(
    stage: Stage, known: dict[str, Any], fault: str
) -> None:
    await stage(file(0, "b.dat", **known))
    assert (stage.outcomes[0].state, stage.outcomes[0].fault) == (FileState.FAILED, fault)
    assert set(stage.stand_in.nodes) == {"/home", "/home/ada", "/home/ada/run"}


async def test_what_is_there_and_proven_is_left_alone(stage: Stage) -> None:
    stage.stand_in.nodes |= {"/home/ada": None, "/home/ada/run": None, "/home/ada/run/b.dat": b"bb"}
    md5 = hashlib.md5(b"bb", usedforsecurity=False).hexdigest()
    await stage(file(0, "b.dat", size=2, md5=md5))
    assert stage.outcomes[0].state == FileState.PRESENT
    assert stage.stand_in.relayed == 0
    assert stage.stand_in.jobs == {}


@RELAY
async def test_a_relayed_file_costs_few_requests(stage: Stage) -> None:
    """Four where nothing is in its place: a look, the bytes, the move, and what became of that."""
    await stage(file(0, "b.dat"))
    path, md5 = "/home/ada/run/a.dat", hashlib.md5(CONTENT["a.dat"], usedforsecurity=False).hexdigest()
    known = {"size": len(CONTENT["a.dat"]), "md5": md5}

    async def asked(**wanted: Any) -> list[str]:
        """Methods of what is asked of one file, apart from what is asked once for all."""
        stage.outcomes.clear()
        stage.stand_in.requests.clear()
        await stage(file(1, "a.dat", **wanted))
        assert stage.stand_in.nodes[path] == CONTENT["a.dat"]
        once = ("/capabilities", "/nodes/home/ada", "/nodes/home/ada/run")
        return [method for method, where in stage.stand_in.requests if where not in once]

    assert await asked(**known) == ["GET", "PUT", "POST", "GET"]
    # What is there and as it should be costs the look.
    assert await asked(**known) == ["GET"]
    for wanted in (known, {}):
        stage.stand_in.nodes[path] = b"old"
        assert sorted(await asked(**wanted)) == ["DELETE", "GET", "GET", "POST", "PUT"]
    # In a directory that was not there before there is nothing to look at.
    for place in (path, "/home/ada/run/b.dat", "/home/ada/run"):
        del stage.stand_in.nodes[place]
    assert await asked(**known) == ["PUT", "POST", "GET"]


@RELAY
@pytest.mark.parametrize("kind", ["file", "container"])
async def test_what_comes_into_a_files_place_meanwhile_is_noticed(stage: Stage, kind: str) -> None:
    """A node that is moved onto a container goes into it, and onto a file is refused."""
    path = "/home/ada/run/b.dat"
    stage.stand_in.meanwhile = {path: None if kind == "container" else b"other"}
    await stage(file(0, "b.dat"))
    if kind == "container":
        assert (stage.outcomes[0].state, stage.outcomes[0].fault) == (FileState.FAILED, "DuplicateNode")
        assert set(stage.stand_in.nodes) == {"/home", "/home/ada", "/home/ada/run", path}
    else:
        assert stage.outcomes[0].state == FileState.STAGED
        assert stage.stand_in.nodes[path] == b"bb"
        assert [outcome.fault for outcome in stage.retried] == ["DuplicateNode"]


@RELAY
async def test_a_relayed_file_has_the_permissions_that_its_container_gives(stage: Stage) -> None:
    given = {f"{CORE}groupread": "ivo://o/gms?b ivo://o/gms?a", f"{CORE}groupwrite": "ivo://o/gms?c"}
    stage.stand_in.nodes |= {"/home/ada": None, "/home/ada/run": None, "/home/ada/shared": None}
    stage.stand_in.properties = {
        "/home/ada/run": {**given, f"{CORE}ispublic": "true"},
        "/home/ada/shared": {**given, INHERIT: "true", f"{CORE}ispublic": "false"},
        "/home/ada": {INHERIT: "true", f"{CORE}ispublic": "true"},
    }
    places = ("/home/ada/run", "/home/ada/shared", "/home/ada")
    await stage(*(file(n, "b.dat", target=f"{place}/b.dat") for n, place in enumerate(places)))
    assert {outcome.state for outcome in stage.outcomes.values()} == {FileState.STAGED}
    found = [stage.stand_in.properties.get(f"{place}/b.dat", {}) for place in places]
    assert found == [{}, given, {f"{CORE}ispublic": "true"}]
    # A container is asked once for all its files.
    stage.outcomes.clear()
    stage.stand_in.requests.clear()
    await stage(*(file(n, "b.dat", target=f"/home/ada/shared/{n}.dat") for n in range(20)))
    assert stage.stand_in.requests.count(("GET", "/nodes/home/ada/shared")) == 1
    assert all(stage.stand_in.properties[f"/home/ada/shared/{n}.dat"] == given for n in range(20))


async def test_a_directory_that_cannot_be_made_fails_its_own_files_alone(stage: Stage) -> None:
    stage.stand_in.nodes["/home/ada/run"] = None
    stage.stand_in.forbidden = {"/home/ada/closed"}
    await stage(file(0, "b.dat", target="/home/ada/closed/b.dat"), file(1, "b.dat"))
    assert (stage.outcomes[0].state, stage.outcomes[0].fault) == (FileState.FAILED, "PermissionDenied")
    assert stage.outcomes[1].state == FileState.STAGED


@RELAY
async def test_passing_failures_of_the_rse_are_retried_within_bounds(stage: Stage) -> None:
    stage.stand_in.failures = {"b.dat": 2, "a.dat": 1000}
    await stage(file(0, "a.dat"), file(1, "b.dat"))
    assert (stage.outcomes[0].state, stage.outcomes[0].fault) == (FileState.FAILED, "TransferFailed")
    assert stage.outcomes[1].state == FileState.STAGED
    assert [outcome.number for outcome in stage.retried].count(0) == 4
    assert [outcome.number for outcome in stage.retried].count(1) == 2


@RELAY
async def test_bytes_damaged_on_the_way_never_take_the_files_place(stage: Stage) -> None:
    stage.stand_in.damage = {"/home/ada/run/.b.dat."}
    await stage(file(0, "b.dat"))
    assert (stage.outcomes[0].state, stage.outcomes[0].fault) == (FileState.FAILED, "ChecksumMismatch")
    assert set(stage.stand_in.nodes) == {"/home", "/home/ada", "/home/ada/run"}


@RELAY
async def test_that_a_cavern_cannot_pull_is_found_out_once_and_remembered(stage: Stage) -> None:
    await stage(*[file(number, name) for number, name in enumerate(CONTENT)])
    await stage(file(len(CONTENT), next(iter(CONTENT))))
    assert stage.stand_in.relayed == len(CONTENT) + 1
    pulls = [source for source, _ in stage.stand_in.jobs.values() if not source.startswith("move:")]
    assert len(pulls) == 1


@RELAY
async def test_a_container_in_the_files_place_stays(stage: Stage) -> None:
    place = {"/home/ada": None, "/home/ada/run": None, "/home/ada/run/b.dat": None}
    stage.stand_in.nodes.update(place)
    await stage(file(0, "b.dat"))
    assert (stage.outcomes[0].state, stage.outcomes[0].fault) == (FileState.FAILED, "DuplicateNode")
    assert set(stage.stand_in.nodes) == {"/home", *place}


@pytest.mark.parametrize(
    ("status", "text", "name"),
    [
        (413, "limit: 0\n", "QuotaExceeded"),
        (412, "checksum mismatch: md5=x != md5=y\n", "ChecksumMismatch"),
        (404, "NodeNotFound: vos://a~b/c\n", "NodeNotFound"),
        (403, "PermissionDenied: vos://a~b/c\n", "PermissionDenied"),
        (500, "unexpected exception: java.lang.RuntimeException: BUG\n", "InternalFault"),
    ],
)
def test_a_refusal_is_named_as_the_standard_does(status: int, text: str, name: str) -> None:
    assert fault(status, text).fault == name


@RELAY
async def test_a_cavern_that_another_has_replaced_is_asked_anew_what_it_can_do(stage: Stage) -> None:
    stage.stand_in.bulk = True
    assert await stage.approach.cavern.bulk_pull_url() is not None
    stage.stand_in.bulk = False
    await stage(file(0, "b.dat"))
    assert stage.outcomes[0].state == FileState.STAGED
    assert await stage.approach.cavern.bulk_pull_url() is None


async def test_a_cancelled_task_reports_no_file_as_failed(stage: Stage) -> None:
    stage.cancelled.set()
    await stage(file(0, "a.dat"))
    assert stage.outcomes == {}


async def test_a_cavern_that_is_away_is_a_passing_failure(stage: Stage) -> None:
    stage.approach.cavern.url = "http://127.0.0.1:9/cavern"
    with pytest.raises(StagingError) as failure:
        await stage(file(0, "b.dat"))
    assert failure.value.transient
    assert stage.outcomes == {}


async def test_a_checksum_that_cavern_does_not_keep_is_read_back(stage: Stage) -> None:
    adler32 = f"{zlib.adler32(b'bb'):08x}"
    await stage(file(0, "b.dat", adler32=adler32))
    assert (stage.outcomes[0].state, stage.outcomes[0].adler32) == (FileState.STAGED, adler32)


@RELAY
async def test_what_the_rse_states_of_a_file_is_compared(stage: Stage) -> None:
    md5 = base64.b64encode(hashlib.md5(CONTENT["a.dat"], usedforsecurity=False).digest()).decode()
    stage.stand_in.digests = {
        "a.dat": f"md5={md5},adler32={zlib.adler32(CONTENT['a.dat']):x}",
        "b.dat": "adler32=00000001",
        "empty.dat": "sha-256=x,adler32=nonsense,md5=?",
    }
    await stage(*(file(number, name) for number, name in enumerate(CONTENT)))
    assert [stage.outcomes[number].state for number in range(3)] == ["STAGED", "FAILED", "STAGED"]
    assert stage.outcomes[1].detail == f"adler32 is {zlib.adler32(b'bb'):08x}, the RSE says 00000001"
    assert "/home/ada/run/b.dat" not in stage.stand_in.nodes


async def test_a_set_that_does_not_fit_into_the_quota_is_refused_before_it_is_staged(stage: Stage) -> None:
    """The sizes that the request does not give are the RSE's."""
    stage.stand_in.quota = 3_000_001
    with pytest.raises(StagingError, match="need 3000002 bytes, and 3000001 are left") as failure:
        await stage(file(0, "a.dat"), file(1, "b.dat", size=2), file(2, "missing.dat"))
    assert (failure.value.fault, failure.value.transient) == ("QuotaExceeded", False)
    assert stage.stand_in.jobs == {}
    assert stage.stand_in.relayed == 0
    stage.stand_in.quota += 1
    await stage(file(0, "a.dat"), file(1, "b.dat", size=2))
    assert {outcome.state for outcome in stage.outcomes.values()} == {FileState.STAGED}
    # Now that it is there it needs no room.
    stage.outcomes.clear()
    await stage(file(0, "a.dat"), file(1, "b.dat", size=2))
    assert {outcome.state for outcome in stage.outcomes.values()} == {FileState.STAGED}


async def test_removal_spares_what_changed(stage: Stage) -> None:
    """By way of Cavern or without it, even to as many bytes; what is gone already is as good as removed."""
    paths = [f"/home/ada/run/{number}.dat" for number in range(4)]
    stage.stand_in.nodes |= dict(zip(paths, (b"bb", b"cc", b"dd", None), strict=True))
    del stage.stand_in.nodes[paths[3]]
    stage.stand_in.unknown = {paths[2]}
    md5 = hashlib.md5(b"bb", usedforsecurity=False).hexdigest()
    copies = [file(n, f"{n}.dat", bytes=2, found_md5=md5) for n in range(4)]
    task: Any = SimpleNamespace(id=uuid.uuid4(), username="ada")
    removal = await stage.approach.remove(task, "token", copies)
    assert (sorted(removal.gone), removal.later) == ([0, 3], [])
    assert [path in stage.stand_in.nodes for path in paths] == [False, True, True, False]
    stage.approach.cavern.url = "http://127.0.0.1:9/cavern"
    assert (await stage.approach.remove(task, "token", copies)).later == [0, 1, 2, 3]
