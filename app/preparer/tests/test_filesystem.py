"""The approaches of sites that mount both file systems: whole copies, and no way out of the two roots."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import uuid
import zlib
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ledger_double import ledger
from prepare_data_client.did import DID
from preparer.config import PreparerSettings
from preparer.ledger import FileState, Outcome
from preparer.staging.approach import Job, StagingError
from preparer.staging.filesystem import CopyApproach, FilesystemApproach, LinkApproach

Stage = Callable[..., dict[int, Outcome]]


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    """The RSE's root and that of the users' areas; ada has an area, and there is something outside."""
    rse, areas = tmp_path / "rse", tmp_path / "home"
    (rse / "s").mkdir(parents=True)
    (areas / "ada").mkdir(parents=True)
    (rse / "s/one.dat").write_bytes(b"one")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_bytes(b"secret")
    return rse, areas


@pytest.fixture(params=[CopyApproach, LinkApproach])
def approach(request: pytest.FixtureRequest, roots: tuple[Path, Path]) -> FilesystemApproach:
    settings = PreparerSettings(abs_path_rse_root=roots[0], abs_path_user_area_root=roots[1])
    made: FilesystemApproach = request.param(settings)
    return made


@pytest.fixture
def stage(approach: FilesystemApproach) -> Stage:
    def run(*files: Any, user: str = "ada") -> dict[int, Outcome]:
        outcomes: dict[int, Outcome] = {}

        async def report(found: Sequence[Outcome]) -> None:
            outcomes.update({outcome.number: outcome for outcome in found})

        async def remember(job: str | None, event: int) -> None:
            raise AssertionError("there is no job to remember")

        whose: Any = SimpleNamespace(id=uuid.uuid4(), username=user)
        asyncio.run(approach.stage(Job(whose, "", ledger(report, report, remember)), files))
        return outcomes

    return run


def file(number: int, path: str, target: str, **known: Any) -> Any:
    fields = {"size": None, "md5": None, "adler32": None, "bytes": None, "attempts": 0}
    return SimpleNamespace(number=number, path=path, target=f"/home/ada/{target}", **(fields | known))


def test_a_file_is_there_whole_and_its_owners(
    stage: Stage, roots: tuple[Path, Path], approach: FilesystemApproach
) -> None:
    outcome = stage(file(0, "s/one.dat", "deep/down/one.dat", size=3, adler32=f"{zlib.adler32(b'one'):08x}"))[
        0
    ]
    assert (outcome.state, outcome.bytes) == (FileState.STAGED, 3)
    staged = roots[1] / "ada/deep/down/one.dat"
    assert staged.read_bytes() == b"one"
    assert staged.is_symlink() == isinstance(approach, LinkApproach)
    assert staged.lstat().st_uid == (roots[1] / "ada").stat().st_uid
    assert os.listdir(staged.parent) == ["one.dat"]


@pytest.mark.parametrize(
    ("known", "fault"), [({"size": 4}, "SizeMismatch"), ({"md5": "0" * 32}, "ChecksumMismatch")]
)
def test_a_mismatch_leaves_what_was_there(
    stage: Stage, roots: tuple[Path, Path], known: dict[str, Any], fault: str
) -> None:
    (roots[1] / "ada/one.dat").write_bytes(b"before")
    outcome = stage(file(0, "s/one.dat", "one.dat", **known))[0]
    assert (outcome.state, outcome.fault) == (FileState.FAILED, fault)
    assert (roots[1] / "ada/one.dat").read_bytes() == b"before"
    assert os.listdir(roots[1] / "ada") == ["one.dat"]


def test_a_link_in_the_users_area_leads_nowhere(stage: Stage, roots: tuple[Path, Path]) -> None:
    outside = roots[0].parent / "outside"
    (roots[1] / "ada/way").symlink_to(outside)
    assert stage(file(0, "s/one.dat", "way/one.dat"))[0].state == FileState.FAILED
    assert os.listdir(outside) == ["secret"]


def test_a_link_on_the_rse_is_not_followed(stage: Stage, roots: tuple[Path, Path]) -> None:
    outside = roots[0].parent / "outside"
    (roots[0] / "s/secret").symlink_to(outside / "secret")
    (roots[0] / "t").symlink_to(outside)
    found = stage(file(0, "s/secret", "a"), file(1, "t/secret", "b"), file(2, "s/one.dat", "c"))
    assert [found[number].state for number in range(3)] == ["FAILED", "FAILED", "STAGED"]
    assert os.listdir(roots[1] / "ada") == ["c"]


def test_faults_are_named(stage: Stage) -> None:
    assert stage(file(0, "s/none.dat", "a"))[0].fault == "SourceNotFound"
    with pytest.raises(StagingError, match="bob has no area"):
        stage(file(0, "s/one.dat", "a"), user="bob")


def task() -> Any:
    return SimpleNamespace(id=uuid.uuid4(), username="ada")


def test_removal_spares_what_changed(
    stage: Stage, roots: tuple[Path, Path], approach: FilesystemApproach
) -> None:
    """Even what has the size of the copy, and a link to something else."""
    staged = [stage(file(number, "s/one.dat", f"{number}.dat"))[number] for number in range(4)]
    area = roots[1] / "ada"
    for name in ("1.dat", "2.dat"):
        (area / name).unlink()
    (area / "1.dat").write_bytes(b"two")
    (area / "2.dat").symlink_to(roots[0].parent / "outside/secret")
    (area / "3.dat").unlink()
    files = [
        file(n, "s/one.dat", f"{n}.dat", bytes=3, found_md5=staged[n].md5, found_adler32=staged[n].adler32)
        for n in range(4)
    ]
    removal = asyncio.run(approach.remove(task(), "", files))
    assert (sorted(removal.gone), removal.later) == ([0, 3], [])
    assert sorted(os.listdir(area)) == ["1.dat", "2.dat"]
    assert (roots[0] / "s/one.dat").read_bytes() == b"one"


def test_what_is_there_and_proven_is_left_alone(
    stage: Stage, roots: tuple[Path, Path], approach: FilesystemApproach
) -> None:
    there = roots[1] / "ada/one.dat"
    there.write_bytes(b"one")
    before = there.stat().st_ino
    md5 = hashlib.md5(b"one", usedforsecurity=False).hexdigest()
    outcome = stage(file(0, "s/one.dat", "one.dat", md5=md5))[0]
    if isinstance(approach, CopyApproach):
        assert (outcome.state, there.stat().st_ino) == (FileState.PRESENT, before)
    else:
        assert (outcome.state, there.is_symlink()) == (FileState.STAGED, True)
    there.unlink()
    there.write_bytes(b"two")
    assert stage(file(0, "s/one.dat", "one.dat", md5=md5))[0].state == FileState.STAGED
    assert there.read_bytes() == b"one"


def test_cancelling_ends_a_file_that_is_being_read(
    approach: FilesystemApproach, roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: Any) -> None:
        raise AssertionError("a cancelled file is not reported: it is cancelled with its task")

    job = Job(task(), "", ledger(nothing, nothing, nothing))
    begin = job.begin

    def begin_and_cancel(source: str, which: Any) -> None:
        begin(source, which)
        job.cancelled.set()

    monkeypatch.setattr(job, "begin", begin_and_cancel)
    asyncio.run(approach.stage(job, [file(0, "s/one.dat", "one.dat")]))
    assert os.listdir(roots[1] / "ada") == []


def test_what_a_killed_worker_left_is_taken_over(roots: tuple[Path, Path]) -> None:
    approach = CopyApproach(PreparerSettings(abs_path_rse_root=roots[0], abs_path_user_area_root=roots[1]))
    outcomes: list[Outcome] = []

    async def report(found: Sequence[Outcome]) -> None:
        outcomes.extend(found)

    async def nothing(*_: Any) -> None:
        return

    job = Job(task(), "", ledger(report, nothing, nothing))
    (roots[1] / f"ada/.one.dat.{job.task.id.hex[:8]}.part").write_bytes(b"half of something longer")
    asyncio.run(approach.stage(job, [file(0, "s/one.dat", "one.dat")]))
    assert outcomes[0].state == FileState.STAGED
    assert os.listdir(roots[1] / "ada") == ["one.dat"]


@pytest.mark.parametrize("outage", [False, True], ids=["of a file", "of the server"])
def test_a_passing_failure_is_tried_again_within_bounds(
    approach: FilesystemApproach, roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, outage: bool
) -> None:
    """A server that is away is waited for, whatever number of tries that takes."""
    failures = 20 if outage else 2
    opened = approach._open_source

    def unsteady(which: Any) -> FileIO:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError(errno.ETIMEDOUT if outage else errno.ESTALE, "Stale file handle")
        return opened(which)

    monkeypatch.setattr(approach, "_open_source", unsteady)
    approach.settings = approach.settings.model_copy(
        update={
            "preparer_retry_delay": 0.001,
            "preparer_retry_delay_max": 0.002,
            "preparer_file_attempts": 3,
        }
    )
    retried: list[Outcome] = []
    outcomes: list[Outcome] = []

    async def report(found: Sequence[Outcome]) -> None:
        outcomes.extend(found)

    async def again(found: Sequence[Outcome]) -> None:
        retried.extend(found)

    async def nothing(*_: Any) -> None:
        return

    if outage:
        asyncio.run(
            approach.stage(Job(task(), "", ledger(report, again, nothing)), [file(0, "s/one.dat", "a")])
        )
        assert (failures, retried, outcomes[-1].state) == (0, [], FileState.STAGED)
        return
    for number, state in ((0, FileState.STAGED), (1, FileState.FAILED)):
        asyncio.run(
            approach.stage(Job(task(), "", ledger(report, again, nothing)), [file(number, "s/one.dat", "a")])
        )
        assert (len(retried), outcomes[-1].state) == (2, state)
        retried.clear()
        failures = 3
    assert "Stale file handle" in str(outcomes[-1].detail)


def test_names_are_taken_as_they_are(stage: Stage, roots: tuple[Path, Path]) -> None:
    names = ["a%41", "aA", "x+y", "q?x", "h#x", " a b ", "é", "e\u0301"]
    outcomes = stage(*(file(n, "s/one.dat", f"{name}/{name}") for n, name in enumerate(names)))
    assert {outcome.state for outcome in outcomes.values()} == {FileState.STAGED}
    assert sorted(os.listdir(roots[1] / "ada")) == sorted(names)
    assert all((roots[1] / "ada" / name / name).read_bytes() == b"one" for name in names)


def test_a_name_that_begins_with_a_slash(
    stage: Stage, roots: tuple[Path, Path], approach: FilesystemApproach
) -> None:
    did = DID.parse("s:/lead/one.dat")
    source = roots[0] / did.path()
    source.parent.mkdir(parents=True)
    source.write_bytes(b"one")
    assert stage(file(0, did.path(), "lead/one.dat"))[0].state == FileState.STAGED
    assert (roots[1] / "ada/lead/one.dat").read_bytes() == b"one"
    copy = file(
        0, did.path(), "lead/one.dat", bytes=3, found_md5=None, found_adler32=f"{zlib.adler32(b'one'):08x}"
    )
    task: Any = SimpleNamespace(id=uuid.uuid4(), username="ada")
    assert asyncio.run(approach.remove(task, "", [copy])).gone == [0]
