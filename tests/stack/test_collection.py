"""The collection as it is published: built, installed without a network, and run from where it was installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from deployment import INVENTORY, ROOT, Deployment

BIN = ROOT / ".venv/bin"

STRAYS = [
    ".env",
    ".venv/bin/python",
    "app/iam/src/iam.egg-info/PKG-INFO",
    "app/vospace/.hypothesis/examples/1",
    "backups/cavern-20261126T000000Z/secrets.yml",
    "build/test-site/state/secrets.yml",
    "data/cavern_data/file",
    "id_ed25519",
    "images.tar",
    "inventory/local/group_vars/all/vault.yml",
    "inventory/local/private.yml",
    "inventory/mysite/group_vars/all/main.yml",
    "inventory/mysite/private.yml",
    "nohup.out",
    "playbooks/~ada/.ansible/tmp/ansible-tmp-1/AnsiballZ_command.py",
    "plugins/modules/__pycache__/stage.cpython-311.pyc",
    "roles/core/defaults/main.yml.orig",
    "roles/images/files/key.pem",
    "skasrc-cavern-0.1.0.tar.gz",
    "state/secrets.yml",
    "tests/inventory/private.yml",
    "tests/output/junit.xml",
    "vault-password",
]


def run(directory: Path, *command: str | Path, programs: Path = BIN) -> str:
    """Run a program of an environment outside of the checkout, with that directory's collections alone."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    done = subprocess.run(
        [programs / command[0], *command[1:]],
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


def _known() -> set[str]:
    """What git knows of the checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return set(filter(None, listed.split("\0")))


def _packed(directory: Path) -> set[str]:
    (artifact,) = directory.glob("*.tar.gz")
    with tarfile.open(artifact) as archive:
        return {member.name for member in archive.getmembers() if member.isfile()}


# Of what git knows, what nobody needs who has the collection.
UNPACKED = {".ci/run", "galaxy.yml"}


def test_the_artifact_holds_what_git_knows(installed: Path) -> None:
    assert _packed(installed) == (_known() - UNPACKED) | {"MANIFEST.json", "FILES.json"}


def test_the_artifact_holds_nothing_private_and_nothing_stray(tmp_path: Path) -> None:
    checkout, built = tmp_path / "checkout", tmp_path / "built"
    for name in _known():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    for stray in STRAYS:
        (checkout / stray).parent.mkdir(parents=True, exist_ok=True)
        (checkout / stray).write_text("nobody's business")
    built.mkdir()
    run(built, "ansible-galaxy", "collection", "build", "--output-path", str(built), str(checkout))
    assert _packed(built) == (_known() - UNPACKED) | {"MANIFEST.json", "FILES.json"}


@pytest.mark.parametrize("playbook", ["site", "status"])
def test_playbooks_run_from_there(stack: Deployment, installed: Path, playbook: str) -> None:
    inventory = str(ROOT / INVENTORY)
    output = run(installed, "ansible-playbook", "-i", inventory, f"skasrc.cavern.{playbook}")
    assert re.findall(r"changed=(\d+)", output) == ["0"], output


OWN_SITE = """
all:
  vars:
    ansible_connection: local
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
    deployment_project: installed
    deployment_project_dir: %s
    deployment_public_name: cavern.installed.example
    deployment_publish_address: 127.0.0.47
    deployment_container_prefix: installed-
    deployment_network: {name: installed47, subnet: 172.28.47.0/24, bridge: installed47}
  children:
    deployment: {hosts: {localhost: }}
"""


@pytest.mark.slow
def test_an_empty_environment_deploys_a_site_from_it(installed: Path, tmp_path: Path) -> None:
    """As the documentation tells: the collection and what it requires by hash, then a site of its own from nothing."""
    collection = installed / "collections/ansible_collections/skasrc/cavern"
    programs = tmp_path / "venv/bin"
    subprocess.run([sys.executable, "-m", "venv", programs.parent], check=True)
    pip = ("pip", "--quiet", "--disable-pip-version-check", "install")
    run(tmp_path, *pip, "--require-hashes", "-r", collection / "requirements/deploy.txt", programs=programs)
    run(tmp_path, *pip, "--no-deps", collection / "app/prepare_data_client", programs=programs)
    inventory = tmp_path / "inventory"
    inventory.mkdir()
    (inventory / "hosts.yml").write_text(OWN_SITE % (tmp_path / "site"))
    shutil.copy(collection / "inventory/local/services.yml", inventory)

    def play(book: str, *arguments: str) -> str:
        command = ("ansible-playbook", "-i", str(inventory), f"skasrc.cavern.{book}", *arguments)
        return run(installed, *command, programs=programs)

    try:
        play("site")
        assert "Smoke test passed" in play("smoke")
        assert re.findall(r"changed=(\d+)", play("site")) == ["0"]
    finally:
        play("purge", "-e", "purge_data=true")
