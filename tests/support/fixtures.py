"""Fixtures of tests against a deployed stack; their conftests import those that they use."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
import requests
from deployment import Deployment, playbook, settings


@pytest.fixture(scope="session")
def stack() -> Deployment:
    """Deploy the stack once; an existing deployment is only updated.

    With ``CAVERN_TEST_DEPLOYED`` set it is used unchanged.
    """
    if not os.environ.get("CAVERN_TEST_DEPLOYED"):
        share_images()
        playbook("site.yml")
    return Deployment.of()


def share_images() -> None:
    """Reuse the ordinary deployment's images, so that only differing ones are built."""
    own, engine = str(settings()["image_prefix"]), docker.from_env()
    for image in engine.images.list("cavern/*"):
        # The same image may have names of other deployments too.
        for name in filter(re.compile("cavern/").match, image.tags):
            repository, _, tag = name.rpartition(":")
            shared = f"{own}/{repository.removeprefix('cavern/')}"
            if not engine.images.list(f"{shared}:{tag}"):
                image.tag(shared, tag)


@pytest.fixture
def user() -> str:
    """Name of a user that no other test uses."""
    return f"u{uuid.uuid4().hex[:12]}"


@pytest.fixture
def http(stack: Deployment, user: str) -> Iterator[requests.Session]:
    """HTTP session of that user."""
    with stack.session(user) as session:
        yield session


@pytest.fixture
def anonymous(stack: Deployment) -> Iterator[requests.Session]:
    """HTTP session without a token."""
    with stack.session() as session:
        yield session


@pytest.fixture
def rse(stack: Deployment) -> Iterator[Callable[[str, bytes], Path]]:
    """Return a function that puts files on the RSE; they are removed afterwards."""
    placed: list[Path] = []

    def place(path: str, content: bytes) -> Path:
        file = stack.data / "rse_data" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        placed.append(file)
        return file

    yield place
    for file in placed:
        file.unlink(missing_ok=True)
