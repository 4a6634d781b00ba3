# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever talks to Docker Engine is told by deployment_engine_socket which one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
# Modules with an option of that name, which is documented where it is implemented.
MODULES = {"converge", "deployment_owner", "health", "images", "logs"}
PHASES = {"host/vars/main.yml": "host_wanted", "images/vars/main.yml": "images_wanted"}
SOCKETS = ("{{ deployment_engine_socket }}", "{{ deployment_owner.socket }}")


def _tasks(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, list):
        for item in node:
            yield from _tasks(item)
    elif isinstance(node, dict):
        yield node
        for key in ("tasks", "pre_tasks", "post_tasks", "block", "rescue", "always"):
            yield from _tasks(node.get(key))


def _all() -> Iterator[tuple[Path, dict[str, Any]]]:
    for file in [*ROOT.glob("roles/*/tasks/*.yml"), *ROOT.glob("playbooks/**/*.yml")]:
        for task in _tasks(yaml.safe_load(file.read_text())):
            yield file, task


def test_modules_are_told_the_socket() -> None:
    told = [
        (name, task[f"skasrc.cavern.{name}"].get("socket"))
        for _file, task in _all()
        for name in MODULES
        if f"skasrc.cavern.{name}" in task
    ]
    assert {name for name, _socket in told} == MODULES
    assert [name for name, socket in told if socket not in SOCKETS] == []


def test_phases_are_told_the_socket() -> None:
    for file, variable in PHASES.items():
        assert yaml.safe_load((ROOT / "roles" / file).read_text())[variable]["socket"] in SOCKETS


def test_the_command_line_is_told_the_socket() -> None:
    found = 0
    for file, task in _all():
        command = task.get("ansible.builtin.command") or task.get("ansible.builtin.shell")
        words = (
            command
            if isinstance(command, str)
            else str((command or {}).get("cmd") or (command or {}).get("argv"))
        )
        # Who deploys into an engine reaches it by this machine's own settings for it, as the connection does.
        if re.match(r"\W*docker\b", words) and task.get("delegate_to") != "localhost":
            found += 1
            assert "deployment_docker_environment" in str(task.get("environment")), (file, task["name"])
    assert found > 5


def test_there_is_one_way_to_an_engine() -> None:
    files = [
        file
        for file in ROOT.glob("plugins/**/*.py")
        if re.search(r"from_env\(|Client\(base", file.read_text())
    ]
    assert [file.name for file in files] == ["_docker.py"]
