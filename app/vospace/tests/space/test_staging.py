"""Files that are staged under a reserved name."""

from __future__ import annotations

import errno
import fcntl
import os

import pytest
from pydantic import ValidationError
from vospace.config import Settings
from vospace.models.caller import Caller
from vospace.models.node import Change
from vospace.space.usage import measure
from vospace.storage import staging
from vospace.storage.tree import Walk, not_of

ADA = Caller("ada", 10_001, 10_001, frozenset({10_001}), frozenset(), "token")
BOX = ("box",)
FILE = (*BOX, "f")


@pytest.fixture(params=["xattrs", "sidecar"])
def space(new_space, request):
    """A space with a container of ada's, for each way to keep properties."""
    space = new_space(vospace_metadata=request.param, vospace_root_writers=["any"])
    space.ensure_container(ADA, BOX)
    return space


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def write(space, content: bytes = b"x") -> None:
    upload = space.upload(ADA, FILE)
    try:
        os.write(upload.descriptor, content)
        upload.commit({})
    finally:
        upload.close()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (Change(properties={"key": "new", "gone": None}), {"key": "new"}),
        (Change(public=True), {"key": "old", "gone": "too"}),
    ],
)
def test_what_is_set_just_before_a_file_is_replaced_stays(space, monkeypatch, change, found):
    """Even within the time in which a file system gives all changes one time."""
    write(space)
    space.update(ADA, FILE, Change(properties={"key": "old", "gone": "too"}))
    real = os.fstat

    def coarse(descriptor: int) -> os.stat_result:
        status = real(descriptor)
        return os.stat_result((*status[:7], 0, 0, 0), {"st_atime_ns": 0, "st_mtime_ns": 0, "st_ctime_ns": 0})

    upload = space.upload(ADA, FILE)
    try:
        os.write(upload.descriptor, b"second")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fstat", coarse)
            upload.prepare({})
            space.update(ADA, FILE, change)
            upload.place()
    finally:
        upload.close()
    node = space.node(ADA, FILE)
    assert {key: value for key, value in node.properties.items() if key in ("key", "gone")} == found
    assert node.public is bool(change.public)


def test_a_file_that_turns_out_to_be_gone_is_closed(space, monkeypatch):
    """As one that another machine has removed, on a file system that they share: even fstat(2) fails."""
    write(space)
    with space.tree.top() as top, top.open_directory("box") as box:
        known, before, fstat = {top.descriptor, box.descriptor}, descriptors(), os.fstat

        def gone(descriptor: int) -> os.stat_result:
            if descriptor not in known:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            return fstat(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fstat", gone)
            walk = Walk(space.tree, lambda directory: directory.status)
            for look in (lambda: box.open_file("f"), lambda: walk.container(BOX)):
                with pytest.raises(OSError, match="Stale"):
                    look()
            assert list(not_of(0, box.descriptor, BOX)) == []
        assert descriptors() <= before


def test_directories_that_cannot_be_counted_are_closed(space, monkeypatch):
    for name in ("first", "second"):
        space.ensure_container(ADA, (*BOX, name))
    with space.tree.top() as top:
        before, opened, opening = descriptors(), [], os.open

        def fail(*arguments, **options) -> int:
            if opened:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            opened.append(arguments[0])
            return opening(*arguments, **options)

        with top.open_directory("box") as box, monkeypatch.context() as patch:
            patch.setattr(os, "open", fail)
            with pytest.raises(OSError, match="Input/output"):
                measure(box.descriptor)
        assert opened
        assert descriptors() <= before


def test_a_file_that_was_swept_before_it_was_locked_is_created_anew(tmp_path, monkeypatch):
    directory = os.open(tmp_path, os.O_RDONLY)
    flock, taken = fcntl.flock, []

    def late(descriptor, operation):
        if not taken:
            taken.extend(path.unlink() or path.name for path in tmp_path.iterdir())
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    try:
        name, descriptor = staging._create_locked(directory, os.O_RDWR, 0o600)
        os.close(descriptor)
    finally:
        os.close(directory)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert taken != [name]


@pytest.mark.parametrize("path", ["", ".", "..", "../data", "/data", "a//b", "a/./b"])
def test_the_space_is_below_the_directory_of_its_locks(path):
    """What lies beside it under reserved names is not the space's to sweep."""
    with pytest.raises(ValidationError, match="not a directory below vospace_base_dir"):
        Settings(vospace_preauth_key="k" * 32, database_url="postgresql://", vospace_sub_path=path)
