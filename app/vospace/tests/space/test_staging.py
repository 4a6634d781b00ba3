"""Files that are staged under a reserved name."""

from __future__ import annotations

import fcntl
import os

import pytest
from pydantic import ValidationError
from vospace.config import Settings
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


@pytest.mark.parametrize("path", ["", ".", "..", "../data", "/data", "a//b", "a/./b"])
def test_the_space_is_below_the_directory_of_its_locks(path):
    """What lies beside it under reserved names is not the space's to sweep."""
    with pytest.raises(ValidationError, match="not a directory below vospace_base_dir"):
        Settings(vospace_preauth_key="k" * 32, database_url="postgresql://", vospace_sub_path=path)
