"""Files that are staged under a reserved name."""

from __future__ import annotations

import fcntl
import os

from vospace.storage import staging


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
