"""What the role writes into directories of a site, and what it leaves there."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_site import ROOT, changes, run_playbook, write

FILES = ROOT / "roles/kubernetes/tasks/files.yml"
FIRST = {"a.yaml": "a: 1\n", "templates/b.yaml": "b: 1\n"}


def play(directory: Path | str, files: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Write files by the role's tasks."""
    given = yaml.safe_load((ROOT / "roles/kubernetes/vars/main.yml").read_text())["kubernetes_list"]
    variables: dict[str, Any] = {
        "kubernetes_directory": str(directory),
        "kubernetes_directory_setting": "kubernetes_dir",
        "kubernetes_files": files,
        "kubernetes_list": given,
        "ansible_python_interpreter": sys.executable,
    }
    tasks = [{"ansible.builtin.include_tasks": str(FILES)}]
    text = yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}])
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as book:
        book.write(text)
        book.flush()
        return run_playbook("-i", "localhost,", "-c", "local", "-e", json.dumps(variables), book.name)


def names(directory: Path) -> set[str]:
    """Return the files below a directory."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir()}


@pytest.mark.parametrize("suffix", ["", "/", "/../there", "/."])
def test_what_is_no_longer_written_is_removed_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    there = tmp_path / "there"
    directory = f"{there}{suffix}"
    assert changes(play(directory, FIRST))
    assert changes(play(directory, FIRST)) == 0
    (there / "mine.txt").write_text("x")
    (there / "templates/mine.yaml").write_text("x")
    assert changes(play(directory, {"a.yaml": "a: 2\n"}))
    assert names(there) == {".skasrc-cavern", "a.yaml", "mine.txt", "templates/mine.yaml"}
    assert changes(play(directory, {"a.yaml": "a: 2\n"})) == 0


def test_a_directory_by_its_link_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    play(tmp_path / "link", FIRST)
    assert changes(play(f"{tmp_path}/link/", {"a.yaml": "a: 1\n"}))
    assert names(tmp_path / "there") == {".skasrc-cavern", "a.yaml"}


def test_a_directory_of_others_is_refused_by_its_name(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (there / ".precious").write_text("x")
    done = play(there, FIRST)
    assert done.returncode != 0
    told = " ".join((done.stdout + done.stderr).split())
    assert (
        f"kubernetes_dir: {there} has files that were not written by this collection, such as .precious"
        in told
    )
    assert names(there) == {".precious"}


def test_nothing_outside_is_removed_whatever_the_list_says(tmp_path: Path) -> None:
    there, outside = tmp_path / "there", tmp_path / "outside"
    play(there, FIRST)
    outside.write_text("x")
    with (there / ".skasrc-cavern").open("a") as listed:
        listed.write(f"../outside\n{outside}\ntemplates/../../outside\n..\n.\ntemplates/b.yaml\n")
    changes(play(there, {"a.yaml": "a: 1\n"}))
    assert outside.exists()
    assert names(there) == {".skasrc-cavern", "a.yaml"}


def test_the_certificate_of_another_deployment_is_left_alone(tmp_path: Path) -> None:
    """An inventory that was copied from that of a deployment on Docker has its directory of certificates, too."""
    certificates = tmp_path / "certs"
    for name in ("docker", "cluster"):
        (tmp_path / name).mkdir()
    own: dict[str, Any] = {"deployment_certificates_dir": str(certificates)}
    write(tmp_path / "docker/site", own, "kubernetes_secrets", "kubernetes")
    shown = (certificates / "haproxy.pem").read_bytes()
    inventory = tmp_path / "docker/site/inventory"
    settings = own | {
        "deployment_public_name": "other.site.example",
        "deployment_controller_dir": str(tmp_path / "docker/site/state"),
    }
    (inventory / "group_vars/all/test.yml").write_text(yaml.safe_dump(settings))

    def again(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_playbook("-i", str(inventory), *arguments, "playbooks/kubernetes_secrets.yml")

    refused = again()
    assert refused.returncode != 0
    told = " ".join((refused.stdout + refused.stderr).split())
    assert f"deployment_certificates_dir: {certificates} has the certificate of another deployment" in told
    assert (certificates / "haproxy.pem").read_bytes() == shown
    renamed = again("-e", '{"certificates_rotate": ["server"]}')
    assert renamed.returncode == 0, renamed.stdout + renamed.stderr
    assert (certificates / "haproxy.pem").read_bytes() != shown
