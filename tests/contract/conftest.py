"""A deployment with stand-ins for OpenCADC's images, beside the first deployment, whose own images it shares."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import ansible_collections
import docker
import pytest
from contract_site import PREFIX, Site
from deployment import ROOT
from vo_clients import clients

__all__ = ["clients"]

# As in tests/stack/conftest.py.
ansible_collections.__path__ = [
    *ansible_collections.__path__,
    str(ROOT / ".venv/collections/ansible_collections"),
]
from ansible_collections.skasrc.cavern.plugins.module_utils import _x509  # noqa: E402 - by that path

HERE = Path(__file__).parent


WARS = ("cavern", "posix-mapper", "reg")
# What the real services take for each answer; another value in the environment makes slower or faster ones.
DELAY = os.environ.get("STANDIN_DELAY_MS", "50-300")
DEVELOPMENT = {"postgresql": "postgres", "haproxy": "haproxy"}


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Stand-ins for the images."""
    client = docker.from_env()
    context = tmp_path_factory.mktemp("image")
    shutil.copytree(HERE / "image", context, dirs_exist_ok=True)
    # What the real ones validate documents with.
    shutil.copytree(ROOT / "app/vospace/tests/schemas", context / "schemas")
    for war in WARS:
        client.images.build(
            path=str(context),
            tag=f"cavern-contract/{war}:stand-in",
            buildargs={"FROM": f"{PREFIX}/python:local", "WAR": war, "STANDIN_DELAY_MS": DELAY},
            rm=True,
        )
    for name, base in DEVELOPMENT.items():
        client.images.build(
            path=str(HERE / name),
            tag=f"cavern-contract/{name}:stand-in",
            buildargs={"FROM": f"{PREFIX}/{base}:local"},
            rm=True,
        )
    yield
    for name in (*WARS, *DEVELOPMENT):
        client.images.remove(f"cavern-contract/{name}:stand-in", force=True)


@pytest.fixture(scope="session")
def further_ca() -> _x509.Pair:
    """An authority of the site, beside the deployment's own, with its key."""
    return _x509.create_ca("the site", 30, "ec")


@pytest.fixture(scope="session")
def empty(images: None, further_ca: _x509.Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The site before its first deployment; all of it is purged in the end."""
    site = Site(tmp_path_factory.mktemp("contract"))
    (site.directory / "site-ca.pem").write_bytes(further_ca.certificate_pem)
    # What a broken run left in a directory of its own.
    site.run(book="playbooks/purge.yml", purge_data="true", deployment_takeover="true")
    yield site
    site.run(book="playbooks/purge.yml", purge_data="true")


@pytest.fixture(scope="session")
def site(empty: Site) -> Site:
    """The site with all three of OpenCADC's services, deployed onto nothing."""
    empty.run()
    return empty
