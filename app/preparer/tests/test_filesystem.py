"""The approaches of sites that mount both file systems: whole copies, and no way out of the two roots."""

from __future__ import annotations

import asyncio
import os
import uuid
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from preparer.approaches.base import Job, StagingError
from preparer.approaches.filesystem import CopyApproach, FilesystemApproach, LinkApproach
from preparer.config import PreparerSettings
from preparer.ledger.store import Outcome
from preparer.ledger.tables import FileState

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

        task: Any = SimpleNamespace(id=uuid.uuid4(), username=user)
        asyncio.run(approach.stage(Job(task, "", report, report, remember), files))
        return outcomes

    return run


def file(number: int, path: str, target: str, **known: Any) -> Any:
    fields = {"size": None, "md5": None, "adler32": None, "bytes": None}
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


def test_removal_spares_what_changed(
    stage: Stage, roots: tuple[Path, Path], approach: FilesystemApproach
) -> None:
    for number in range(2):
        stage(file(number, "s/one.dat", f"{number}.dat"))
    if isinstance(approach, CopyApproach):
        (roots[1] / "ada/1.dat").write_bytes(b"changed since")
        kept = ["1.dat"]
    else:
        kept = []
    task: Any = SimpleNamespace(id=uuid.uuid4(), username="ada")
    files = [file(number, "s/one.dat", f"{number}.dat", bytes=3) for number in range(2)]
    gone = asyncio.run(approach.remove(task, "", files))
    assert gone == [0, 1]
    assert os.listdir(roots[1] / "ada") == kept
    assert (roots[0] / "s/one.dat").read_bytes() == b"one"
