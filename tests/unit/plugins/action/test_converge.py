# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs that ask for another one: what is done is left out of it, contexts are brought, and all of it is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.skasrc.cavern.plugins.action import converge

ARGUMENTS: dict[str, Any] = {
    "project": "example",
    "host": {"record": "/srv/host.json"},
    "images": {"images": ["cavern/one:local"], "recipes": {"one": {"files": {".": "files"}}}},
}
Start = Callable[..., Any]


@pytest.fixture
def start(act: Callable[..., Any]) -> Start:
    """`start(arguments, *results)`: a task whose module returns these, one after the other."""

    def started(arguments: dict[str, Any], *results: dict[str, Any]) -> Any:
        left = list(results)
        return act(converge.ActionModule, arguments, lambda _arguments: left.pop(0))

    return started


def test_one_run_where_nothing_is_asked_for(start: Start) -> None:
    task = start(ARGUMENTS, {"changed": False, "actions": []})
    assert task.run() == {"changed": False, "actions": []}
    (run,) = task.runs
    assert len(run["images"]["recipes"]["one"]["inputs"]) == 64


def test_runs_go_on_where_the_last_one_ended(start: Start) -> None:
    task = start(
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
    assert task.run() == {
        "changed": True,
        "actions": [1, 2],
        "diff": ["a", "b"],
        "engine": {},
        "services": {},
    }
    first, second, third = task.runs
    assert "host" in first
    assert "host" not in second
    assert "context" not in second["images"]["recipes"]["one"]
    assert Path(third["images"]["recipes"]["one"]["context"]).exists()


def test_a_failure_tells_what_was_done_before_it(start: Start) -> None:
    task = start(
        ARGUMENTS,
        {"changed": True, "actions": [1], "again": {"done": ["host"], "to_build": []}},
        {"failed": True, "msg": "no", "actions": []},
    )
    result = task.run()
    assert (result["failed"], result["msg"], result["actions"], result["changed"]) == (True, "no", [1], True)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"recipes": {}}, "images: missing required arguments: images"),
        ({"images": ["cavern/one:local"], "recipes": {"one": {"files": {".": "gone"}}}}, "one needs gone"),
    ],
)
def test_bad_images_are_refused_before_anything_runs(
    start: Start, images: dict[str, Any], message: str
) -> None:
    task = start(ARGUMENTS | {"images": images})
    with pytest.raises(AnsibleActionFail, match=message):
        task.run()
    assert task.runs == []
