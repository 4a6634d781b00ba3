"""The collection as it is published: built, installed without a network, and run from where it was installed."""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
from pathlib import Path

import pytest
from deployment import INVENTORY, ROOT, Deployment

BIN = ROOT / ".venv/bin"


def run(directory: Path, *command: str) -> str:
    """Run a program of the environment outside of the checkout, with that directory's collections alone."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=directory,
        env=environment | {"ANSIBLE_COLLECTIONS_PATH": str(directory / "collections")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with nothing but the installed collection."""
    directory = tmp_path_factory.mktemp("installed")
    run(directory, "ansible-galaxy", "collection", "build", "--output-path", str(directory), str(ROOT))
    (artifact,) = directory.glob("skasrc-cavern-*.tar.gz")
    collections = str(directory / "collections")
    run(directory, "ansible-galaxy", "collection", "install", "--offline", "-p", collections, str(artifact))
    return directory


def test_the_artifact_holds_what_git_knows(installed: Path) -> None:
    known = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    (artifact,) = installed.glob("*.tar.gz")
    with tarfile.open(artifact) as archive:
        names = {member.name for member in archive.getmembers() if member.isfile()}
    assert names - set(known) == {"MANIFEST.json", "FILES.json"}
    # What the images are built from, for one.
    assert {name for name in known if name.startswith(("app/", "roles/"))} <= names | {""}


@pytest.mark.parametrize("playbook", ["site", "status"])
def test_playbooks_run_from_there(stack: Deployment, installed: Path, playbook: str) -> None:
    inventory = str(ROOT / INVENTORY)
    output = run(installed, "ansible-playbook", "-i", inventory, f"skasrc.cavern.{playbook}")
    assert re.findall(r"changed=(\d+)", output) == ["0"], output
