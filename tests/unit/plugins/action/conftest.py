# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs an action plugin whose host is a directory, and whose module is a function of the test."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from ansible.playbook.task import Task
from ansible.plugins.action import ActionBase
from ansible_collections.skasrc.cavern.plugins.plugin_utils import _contexts

Module = Callable[[dict[str, Any]], dict[str, Any]]


class Act:
    """One task: *kind* is its plugin, *module* stands in for the module that it runs on the host."""

    def __init__(
        self,
        kind: type[ActionBase],
        remote: Path,
        arguments: dict[str, Any],
        module: Module,
        check: bool = False,
    ) -> None:
        self.runs: list[dict[str, Any]] = []
        """Arguments of each run of the module."""
        task = Task()
        task.action = f"skasrc.cavern.{kind.__module__.rpartition('.')[2]}"
        task.args = arguments
        task.check_mode = check
        connection = MagicMock()
        connection._shell.tmpdir = str(remote)
        connection._shell.join_path = lambda *parts: str(Path(*parts))
        self.plugin = kind(task, connection, MagicMock(), MagicMock(), MagicMock(), None)

        def execute(**options: Any) -> dict[str, Any]:
            self.runs.append(copy.deepcopy(options["module_args"]))
            return module(options["module_args"])

        def transfer(local: str, remote: str) -> str:
            Path(remote).write_bytes(Path(local).read_bytes())
            return remote

        self.plugin._execute_module = execute
        self.plugin._transfer_file = transfer
        self.plugin._fixup_perms2 = lambda paths, **_options: list(paths)

    def run(self) -> dict[str, Any]:
        """Return the task's result."""
        result: dict[str, Any] = self.plugin.run(task_vars={})
        return result


@pytest.fixture
def act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Act]:
    """`act(kind, arguments, module, check=False)`: a task in a collection that holds one recipe's files."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files/Dockerfile").write_text("FROM x")
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    monkeypatch.setattr(_contexts, "ROOT", tmp_path)

    def made(kind: type[ActionBase], arguments: dict[str, Any], module: Module, check: bool = False) -> Act:
        return Act(kind, tmp_path, arguments, module, check)

    return made
