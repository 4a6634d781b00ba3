# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What crosses from the controller to the host: digests always, contexts only of what has to be built."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.skasrc.cavern.plugins.action import images

OPTIONS = {
    "images": ["cavern/one:local"],
    "recipes": {"base": {}, "one": {"from": "base"}, "two": {"from": "base"}},
}
Start = Callable[..., Any]


@pytest.fixture
def start(act: Callable[..., Any]) -> Start:
    """`start(to_build, check=False, **options)`: a task whose module wants to build what it is told."""

    def started(to_build: list[str], check: bool = False, **options: Any) -> Any:
        result = {"changed": bool(to_build), "to_build": [] if check else to_build}
        return act(images.ActionModule, OPTIONS | options, lambda _arguments: dict(result), check)

    return started


def test_unchanged_run_hands_over_digests_of_the_needed_recipes_alone(start: Start) -> None:
    task = start([])
    assert task.run() == {"changed": False}
    assert len(task.runs) == 1
    recipes = task.runs[0]["recipes"]
    assert set(recipes) == {"base", "one"}
    assert all(len(recipe["inputs"]) == 64 and "context" not in recipe for recipe in recipes.values())


def test_contexts_follow_for_what_has_to_be_built(start: Start) -> None:
    recipes = {"base": {}, "one": {"from": "base", "files": {".": "files"}, "version": "pyproject.toml"}}
    task = start(["one"], recipes=recipes)
    assert task.run() == {"changed": True}
    first, second = (run["recipes"] for run in task.runs)
    assert second["one"]["inputs"] == first["one"]["inputs"]
    assert second["one"]["version"] == "1.2.3"
    assert "context" not in second["base"]
    with tarfile.open(second["one"]["context"]) as archive:
        assert archive.getnames() == ["Dockerfile"]


def test_check_mode_hands_no_context_over(start: Start) -> None:
    task = start(["one"], check=True)
    assert task.run()["changed"]
    assert len(task.runs) == 1


@pytest.mark.parametrize(
    "options", [{"source": "pull"}, {"source": "load"}, {"state": "saved"}, {"state": "absent"}]
)
def test_without_a_build_no_source_is_read(start: Start, options: dict[str, str]) -> None:
    task = start([], recipes={"one": {"files": {".": "nowhere"}}}, **options)
    task.run()
    assert "inputs" not in task.runs[0]["recipes"]["one"]


def test_missing_source_is_told(start: Start) -> None:
    task = start([], recipes={"one": {"files": {".": "nowhere"}}})
    with pytest.raises(AnsibleActionFail, match="one needs nowhere, which does not exist in the collection"):
        task.run()
