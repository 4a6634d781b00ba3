# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What modules tell while they run, and how it is printed."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils import _progress
from ansible_collections.skasrc.cavern.plugins.plugin_utils import _live


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    display = SimpleNamespace(
        display=lambda text, newline=True: texts.append(text + ("\n" if newline else ""))
    )
    monkeypatch.setattr(_live, "Display", lambda: display)
    return texts


def _action(transport: str = "local") -> Any:
    return SimpleNamespace(
        _connection=SimpleNamespace(transport=transport), _task=SimpleNamespace(environment=[{"LANG": "C"}])
    )


def _told_by(action: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Build an image that fails and one that does not, as the module with the task's environment would."""
    for variables in action._task.environment:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
    with _progress.step("image", "base", "building", "built"):
        _progress.tell("image", "base", "building, step 2/3")
    with pytest.raises(ValueError, match="no space"), _progress.step("image", "next", "building", "built"):
        raise ValueError("no space")


def test_each_event_is_a_line_where_there_is_no_terminal(
    printed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(_live.VIEW, _live.LINES)
    action = _action()
    with _live.followed(action):
        path = Path(action._task.environment[-1][_progress.VARIABLE])
        _told_by(action, monkeypatch)
    assert action._task.environment == [{"LANG": "C"}]
    assert not path.exists()
    lines = [line.split() for line in printed]
    assert lines == [
        ["image", "base", "building"],
        ["image", "base", "built", "0.0", "s"],
        ["image", "next", "building"],
        ["image", "next", "failed", "0.0", "s"],
    ]


def test_on_a_terminal_a_last_line_says_what_is_going_on(
    printed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_live, "DRAW", 0)
    monkeypatch.setenv(_live.VIEW, _live.TERMINAL)
    action = _action()
    with _live.followed(action):
        monkeypatch.setenv(_progress.VARIABLE, action._task.environment[-1][_progress.VARIABLE])
        _progress.tell("image", "base", "building")
        _await(printed, f"{_live.CLEAR}  base building 0 s")
        _progress.tell("image", "base", "building, step 2/3")
        _await(printed, f"{_live.CLEAR}  base building, step 2/3 0 s")
        _progress.tell("image", "base", "built", 0.04)
    assert printed[-2:] == [_live.CLEAR, f"  {'image base':<60} {'built':<12}    0.0 s\n"]


def _await(printed: list[str], text: str) -> None:
    deadline = os.times().elapsed + 20
    while text not in printed:
        assert os.times().elapsed < deadline, printed


@pytest.mark.parametrize(("view", "transport"), [(None, "local"), ("lines", "ssh")])
def test_nobody_follows_another_callback_or_another_machine(
    printed: list[str], monkeypatch: pytest.MonkeyPatch, view: str | None, transport: str
) -> None:
    monkeypatch.delenv(_live.VIEW, raising=False)
    monkeypatch.delenv(_progress.VARIABLE, raising=False)
    if view is not None:
        monkeypatch.setenv(_live.VIEW, view)
    action = _action(transport)
    with _live.followed(action):
        assert action._task.environment == [{"LANG": "C"}]
        _told_by(action, monkeypatch)
    assert printed == []


def test_work_goes_on_where_nothing_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, and a file that is gone."""
    done = []
    for path in ("/dev/full", "/nowhere/at/all"):
        monkeypatch.setenv(_progress.VARIABLE, path)
        with _progress.step("image", "base", "building", "built"):
            done.append(path)
    assert len(done) == 2


def test_a_broken_line_and_a_file_that_is_gone_cost_no_result(
    printed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(_live.VIEW, _live.LINES)
    action, result = _action(), None
    with _live.followed(action):
        path = Path(action._task.environment[-1][_progress.VARIABLE])
        path.write_text('{"object":"ima{"object": 1}\n[]\n{"object": "image"}\n')
        monkeypatch.setenv(_progress.VARIABLE, str(path))
        _progress.tell("image", "\x1b]0;base\x07", "built", 1)
        shown = r"image \x1b]0;base\x07"
        _await(printed, f"  {shown:<60} {'built':<12}    1.0 s\n")
        path.unlink()
        result = "kept"
    assert result == "kept"
    assert action._task.environment == [{"LANG": "C"}]
