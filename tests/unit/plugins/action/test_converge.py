# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs that ask for another one: what is done is left out of it, contexts are brought, and all of it is told."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from ansible.errors import AnsibleActionFail
from ansible.playbook.task import Task
from ansible_collections.skasrc.cavern.plugins.action import converge
from ansible_collections.skasrc.cavern.plugins.plugin_utils import _contexts

ARGUMENTS: dict[str, Any] = {
    "project": "example",
    "host": {"record": "/srv/host.json"},
    "images": {"images": ["cavern/one:local"], "recipes": {"one": {"files": {".": "files"}}}},
}


class Plugin(converge.ActionModule):
    """The plugin with a host that is a directory, and a module that returns what it is told."""

    def __init__(self, remote: Path, arguments: dict[str, Any], *results: dict[str, Any]) -> None:
        task = Task()
        task.action = "skasrc.cavern.converge"
        task.args = arguments
        connection = MagicMock()
        connection._shell.tmpdir = str(remote)
        connection._shell.join_path = lambda *parts: str(Path(*parts))
        super().__init__(task, connection, MagicMock(), MagicMock(), MagicMock(), None)
        self.results = list(results)
        self.runs: list[dict[str, Any]] = []

    def _transfer_file(self, local_path: str, remote_path: str) -> str:
        Path(remote_path).write_bytes(Path(local_path).read_bytes())
        return remote_path

    def _fixup_perms2(self, remote_paths: Any, remote_user: Any = None, execute: bool = True) -> Any:
        return list(remote_paths)

    def _execute_module(self, **arguments: Any) -> dict[str, Any]:
        self.runs.append(copy.deepcopy(arguments["module_args"]))
        return self.results.pop(0)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "files").mkdir()
    (tmp_path / "files/Dockerfile").write_text("FROM x")
    monkeypatch.setattr(_contexts, "ROOT", tmp_path)
    return tmp_path


def test_one_run_where_nothing_is_asked_for(root: Path) -> None:
    plugin = Plugin(root, ARGUMENTS, {"changed": False, "actions": []})
    assert plugin.run(task_vars={}) == {"changed": False, "actions": []}
    (run,) = plugin.runs
    assert len(run["images"]["recipes"]["one"]["inputs"]) == 64


def test_runs_go_on_where_the_last_one_ended(root: Path) -> None:
    plugin = Plugin(
        root,
        ARGUMENTS,
        {
            "changed": True,
            "actions": [1],
            "diff": ["a"],
            "engine": {},
            "again": {"done": ["host"], "to_build": []},
        },
        {"changed": False, "actions": [], "diff": [], "again": {"done": [], "to_build": ["one"]}},
        {"changed": True, "actions": [2], "diff": ["b"], "services": {}},
    )
    assert plugin.run(task_vars={}) == {
        "changed": True,
        "actions": [1, 2],
        "diff": ["a", "b"],
        "engine": {},
        "services": {},
    }
    first, second, third = plugin.runs
    assert "host" in first
    assert "host" not in second
    assert "context" not in second["images"]["recipes"]["one"]
    assert Path(third["images"]["recipes"]["one"]["context"]).exists()


def test_a_failure_tells_what_was_done_before_it(root: Path) -> None:
    plugin = Plugin(
        root,
        ARGUMENTS,
        {"changed": True, "actions": [1], "again": {"done": ["host"], "to_build": []}},
        {"failed": True, "msg": "no", "actions": []},
    )
    result = plugin.run(task_vars={})
    assert (result["failed"], result["msg"], result["actions"], result["changed"]) == (True, "no", [1], True)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"recipes": {}}, "images: missing required arguments: images"),
        ({"images": ["cavern/one:local"], "recipes": {"one": {"files": {".": "gone"}}}}, "one needs gone"),
    ],
)
def test_bad_images_are_refused_before_anything_runs(
    root: Path, images: dict[str, Any], message: str
) -> None:
    plugin = Plugin(root, ARGUMENTS | {"images": images})
    with pytest.raises(AnsibleActionFail, match=message):
        plugin.run(task_vars={})
    assert plugin.runs == []
