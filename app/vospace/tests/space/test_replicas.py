"""Two replicas that each mount the space for themselves, as machines mount a shared file system."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from vospace.config import Settings
from vospace.models.caller import Caller
from vospace.models.errors import DuplicateNode, InvalidArgument, NodeNotFound
from vospace.space.space import Space
from vospace.storage.locks import Locks

ADA = Caller("ada", 10_001, 10_001, frozenset({10_001}), frozenset(), "token")
NAMES = ("one", "two", "three")


@contextmanager
def mounted(source: Path, target: Path) -> Iterator[Path]:
    """*source* once more, with a device number of its own, as each machine gives one to what it mounts. Locks reach
    *source*; what the other mount changes is seen at once."""
    target.mkdir()
    options = "attr_timeout=0,entry_timeout=0,negative_timeout=0"
    subprocess.run(
        ["bindfs", "--multithreaded", "--enable-lock-forwarding", "-o", options, str(source), str(target)],
        check=True,
    )
    try:
        yield target
    finally:
        # At once for all who look for it, whoever has it open.
        subprocess.run(["fusermount", "-u", "-z", str(target)], check=True)


@pytest.fixture(scope="module")
def mounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    if os.geteuid() != 0 or not Path("/dev/fuse").exists() or shutil.which("bindfs") is None:
        pytest.skip("needs root, /dev/fuse and bindfs")
    base = tmp_path_factory.mktemp("replicas")
    (base / "space").mkdir()
    with mounted(base / "space", base / "first") as first, mounted(base / "space", base / "second") as second:
        assert first.stat().st_dev != second.stat().st_dev
        yield first, second


@pytest.fixture(scope="module")
def replicas(mounts: tuple[Path, Path]) -> Iterator[tuple[Space, Space]]:
    with ExitStack() as stack:
        opened = []
        for mount in mounts:
            given = Settings(
                vospace_base_dir=mount,
                vospace_preauth_key="k" * 32,
                vospace_root_writers=["any"],
                database_url="postgresql://",
            )
            opened.append(Space(given))
            stack.callback(opened[-1].close)
        yield opened[0], opened[1]


def test_a_name_is_locked_for_all_who_mount_the_space(mounts, replicas):
    first, second = replicas
    waits = threading.Event()
    done: list[str] = []

    def other() -> None:
        with second.tree.top() as top:
            waits.set()
            with Locks(mounts[1]).held((top, "name")):
                done.append("second holds")

    thread = threading.Thread(target=other)
    with first.tree.top() as top, Locks(mounts[0]).held((top, "name")):
        thread.start()
        waits.wait()
        # The lock is not to be had: who waits for it, waits for all of this.
        thread.join(timeout=0.3)
        done.append("first lets go")
    thread.join()
    assert done == ["first lets go", "second holds"]


def opened(below: Path) -> list[str]:
    """What this process has open there."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.append(str(descriptor.readlink()))
    return [path for path in found if path.startswith(f"{below}/")]


class Changed(Exception):
    """The file is not the one that was to be replaced."""


Act = tuple[str, str, str]
acts = st.lists(
    st.tuples(st.sampled_from(("make", "replace", "move", "delete")), *2 * (st.sampled_from(NAMES),)),
    min_size=4,
    max_size=12,
)


@given(acts, acts)
@effort(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_file_is_lost_and_none_is_there_twice(replicas, mounts, ones, others):
    """Files of one size each: as many as were made and not deleted are there in the end, each one whole."""
    before = len(opened(mounts[0].parent))
    box = (os.urandom(8).hex(),)
    replicas[0].ensure_container(ADA, box)
    count: Counter[str] = Counter()
    written: set[bytes] = set()
    failed: list[BaseException] = []

    def write(space: Space, name: str, **how: object) -> None:
        content = os.urandom(5000)
        written.add(content)
        upload = space.upload(ADA, (*box, name), **how)
        try:
            os.write(upload.descriptor, content)
            upload.commit({})
        finally:
            upload.close()

    def replace(space: Space, name: str) -> None:
        seen: list[int] = []

        def unchanged(status: os.stat_result | None) -> None:
            found = [] if status is None else [status.st_ino, status.st_mtime_ns]
            if not found or (seen and seen != found):
                raise Changed
            seen[:] = found

        write(space, name, replace=True, require=unchanged)

    what: dict[str, Callable[[Space, str, str], None]] = {
        "make": lambda space, name, _: write(space, name, replace=False),
        "replace": lambda space, name, _: replace(space, name),
        "move": lambda space, name, other: space.move(ADA, (*box, name), (*box, other)),
        "delete": lambda space, name, _: space.delete(ADA, (*box, name)),
    }
    start = threading.Barrier(2)

    def run(space: Space, wanted: list[Act]) -> None:
        try:
            start.wait()
            for act, name, other in wanted:
                with suppress(DuplicateNode, NodeNotFound, InvalidArgument, Changed):
                    what[act](space, name, other)
                    count[act] += 1
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=each) for each in zip(replicas, (ones, others), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in failed:
        raise error
    assert len(opened(mounts[0].parent)) == before
    there = [(mounts[0] / "cavern").joinpath(*box, name) for name in NAMES]
    left = [path.read_bytes() for path in there if path.exists()]
    assert len(left) == count["make"] - count["delete"]
    assert len(set(left)) == len(left)
    assert set(left) <= written
