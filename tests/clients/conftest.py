"""The field's own clients against the deployed stack."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from deployment import Deployment
from fixtures import anonymous, http, stack, user
from vo_clients import Shell, clients

__all__ = ["anonymous", "clients", "http", "stack", "user"]


@pytest.fixture
def shell(stack: Deployment, clients: Path, user: str, tmp_path: Path) -> Shell:
    """Client programs of a new user."""
    return Shell(stack, clients, tmp_path, user)


@pytest.fixture
def home(shell: Shell) -> str:
    """The user's area, just made."""
    area = f"cavern:home/{shell.user}"
    shell.run("vmkdir", area)
    return area


Make = Callable[[str, int], Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a local file of random bytes."""

    def make(name: str, size: int) -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.urandom(size))
        return file

    return make
