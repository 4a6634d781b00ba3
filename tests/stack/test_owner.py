"""A deployment belongs to the directory it was made from: no other takes it over, and none is asked for its engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from deployment import Deployment, playbook

BOOKS = [
    ("site.yml",),
    ("site.yml", "--tags=haproxy"),
    ("site.yml", "--check"),
    ("playbooks/upgrade.yml",),
    ("playbooks/backup.yml",),
    ("playbooks/compose.yml",),
    ("playbooks/restore.yml", "-e", "backup_source=/nowhere"),
    ("playbooks/down.yml",),
    ("playbooks/purge.yml", "-e", "purge_data=true"),
]


def _ids(stack: Deployment) -> dict[str, str]:
    return {name: container.id for name, container in stack.containers().items()}


@pytest.mark.parametrize("book", BOOKS, ids=" ".join)
def test_another_directory_is_refused_before_anything_changes(
    stack: Deployment, tmp_path: Path, book: tuple[str, ...]
) -> None:
    before = _ids(stack)
    done = playbook(*book, "-e", f"deployment_project_dir={tmp_path}", check=False)
    said = " ".join(done.stdout.split())
    assert done.returncode != 0, said
    assert f"the deployment {stack.project} on this engine belongs to {stack.state.parent}" in said
    assert f"this run is that of {tmp_path}." in said
    assert "another deployment_project" in said
    assert "deployment_takeover" in said
    assert "changed=0" in said
    assert _ids(stack) == before
    assert list(tmp_path.iterdir()) == []


def test_a_deployment_that_recorded_no_directory_is_adopted_from_its_own(stack: Deployment) -> None:
    volume = f"{stack.project}-owner"
    before = _ids(stack)
    stack.engine.volumes.get(volume).remove()
    refused = playbook("site.yml", "-e", "deployment_project_dir=/nowhere", check=False)
    assert f"belongs to {stack.state.parent}" in " ".join(refused.stdout.split())
    assert "changed=1 " in playbook("site.yml").stdout
    assert stack.engine.volumes.get(volume).attrs["Labels"]["int.skao.src.cavern.directory"] == str(
        stack.state.parent
    )
    assert _ids(stack) == before
    assert "changed=0 " in playbook("site.yml").stdout


@pytest.mark.parametrize(
    "book", ["site.yml", "playbooks/smoke.yml", "playbooks/status.yml", "playbooks/logs.yml"]
)
def test_the_engine_is_that_of_the_setting(
    stack: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, book: str
) -> None:
    socket = tmp_path / "engine.sock"
    socket.symlink_to("/var/run/docker.sock")
    # Whatever looked at this would fail.
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    done = playbook(book, "-e", f"deployment_engine_socket={socket}")
    assert "failed=0" in done.stdout
