"""A deployment with stand-ins for OpenCADC's images, beside the first deployment, whose own images it shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from contract_site import PREFIX, Site

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def images() -> Iterator[None]:
    """Stand-ins for the three images."""
    client = docker.from_env()
    wars = ("cavern", "posix-mapper", "reg")
    for war in wars:
        client.images.build(
            path=str(HERE / "image"),
            tag=f"cavern-contract/{war}:stand-in",
            buildargs={"FROM": f"{PREFIX}/python:local", "WAR": war},
            rm=True,
        )
    yield
    for war in wars:
        client.images.remove(f"cavern-contract/{war}:stand-in", force=True)


@pytest.fixture(scope="session")
def empty(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The site before its first deployment; all of it is purged in the end."""
    site = Site(tmp_path_factory.mktemp("contract"))
    # What a broken run left.
    site.run(book="playbooks/purge.yml", purge_data="true")
    yield site
    site.run(book="playbooks/purge.yml", purge_data="true")


@pytest.fixture(scope="session")
def site(empty: Site) -> Site:
    """The site with all three of OpenCADC's services, deployed onto nothing."""
    empty.run()
    return empty
