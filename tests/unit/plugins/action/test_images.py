# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What crosses from the controller to the host: digests always, contexts only of what has to be built."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from ansible.errors import AnsibleActionFail
from ansible.playbook.task import Task
from ansible_collections.skasrc.cavern.plugins.action import images
from ansible_collections.skasrc.cavern.plugins.plugin_utils import _contexts

OPTIONS = {
    "images": ["cavern/one:local"],
    "recipes": {"base": {}, "one": {"from": "base"}, "two": {"from": "base"}},
}


class Plugin(images.ActionModule):
    """The plugin with a host that is a directory and a module that wants to build what it is told."""

    def __init__(self, remote: Path, to_build: list[str], check: bool = False, **options: Any) -> None:
        task = Task()
        task.action = "skasrc.cavern.images"
        task.args = OPTIONS | options
        task.check_mode = check
        connection = MagicMock()
        connection._shell.tmpdir = str(remote)
        connection._shell.join_path = lambda *parts: str(Path(*parts))
        super().__init__(task, connection, MagicMock(), MagicMock(), MagicMock(), None)
        self.to_build = to_build
        self.runs: list[dict[str, Any]] = []

    def _transfer_file(self, local_path: str, remote_path: str) -> str:
        Path(remote_path).write_bytes(Path(local_path).read_bytes())
        return remote_path

    def _fixup_perms2(self, remote_paths: Any, remote_user: Any = None, execute: bool = True) -> Any:
        return list(remote_paths)

    def _execute_module(self, **arguments: Any) -> dict[str, Any]:
        self.runs.append({name: dict(recipe) for name, recipe in arguments["module_args"]["recipes"].items()})
        return {"changed": bool(self.to_build), "to_build": [] if self._task.check_mode else self.to_build}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "files").mkdir()
    (tmp_path / "files/Dockerfile").write_text("FROM x")
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    monkeypatch.setattr(_contexts, "ROOT", tmp_path)
    return tmp_path


def test_unchanged_run_hands_over_digests_of_the_needed_recipes_alone(root: Path) -> None:
    plugin = Plugin(root, [])
    assert plugin.run(task_vars={}) == {"changed": False}
    assert len(plugin.runs) == 1
    assert set(plugin.runs[0]) == {"base", "one"}
    assert all(len(recipe["inputs"]) == 64 and "context" not in recipe for recipe in plugin.runs[0].values())


def test_contexts_follow_for_what_has_to_be_built(root: Path) -> None:
    recipes = {"base": {}, "one": {"from": "base", "files": {".": "files"}, "version": "pyproject.toml"}}
    plugin = Plugin(root, ["one"], recipes=recipes)
    assert plugin.run(task_vars={}) == {"changed": True}
    first, second = plugin.runs
    assert second["one"]["inputs"] == first["one"]["inputs"]
    assert second["one"]["version"] == "1.2.3"
    assert "context" not in second["base"]
    with tarfile.open(second["one"]["context"]) as archive:
        assert archive.getnames() == ["Dockerfile"]


def test_check_mode_hands_no_context_over(root: Path) -> None:
    plugin = Plugin(root, ["one"], check=True)
    assert plugin.run(task_vars={})["changed"]
    assert len(plugin.runs) == 1


@pytest.mark.parametrize(
    "options", [{"source": "pull"}, {"source": "load"}, {"state": "saved"}, {"state": "absent"}]
)
def test_without_a_build_no_source_is_read(root: Path, options: dict[str, str]) -> None:
    plugin = Plugin(root, [], recipes={"one": {"files": {".": "nowhere"}}}, **options)
    plugin.run(task_vars={})
    assert "inputs" not in plugin.runs[0]["one"]


def test_missing_source_is_told(root: Path) -> None:
    plugin = Plugin(root, [], recipes={"one": {"files": {".": "nowhere"}}})
    with pytest.raises(AnsibleActionFail, match="one needs nowhere, which does not exist in the collection"):
        plugin.run(task_vars={})
