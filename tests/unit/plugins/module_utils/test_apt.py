# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packages by apt-get: stand-ins on PATH take the place of the commands and note how they were called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils import _apt

POLICY = """\
docker.io:
  Installed: (none)
  Candidate: 20.10.24+dfsg1
  Version table:
docker-cli:
  Installed: (none)
  Candidate: (none)
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def _program(directory: Path, name: str, text: str) -> None:
    path = directory / name
    path.write_text(f'#!/bin/sh\necho "$@" >>{directory}/calls\n{text}\n')
    path.chmod(0o755)


def _calls(directory: Path) -> list[str]:
    return (directory / "calls").read_text().splitlines()


def test_only_offered_packages_are_known(programs: Path) -> None:
    _program(programs, "apt-cache", f"cat <<'END'\n{POLICY}END")
    assert _apt.known(["docker.io", "docker-cli", "no-such"]) == ["docker.io"]
    assert _apt.known([]) == []


def test_install_waits_for_dpkg_and_asks_nothing(programs: Path) -> None:
    _program(programs, "apt-get", 'test "$DEBIAN_FRONTEND" = noninteractive')
    _apt.install(["docker.io"], 60)
    assert _calls(programs) == [
        "--quiet --option=DPkg::Lock::Timeout=60 install --yes --no-install-recommends docker.io"
    ]


def test_locked_lists_are_tried_again(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_apt.time, "sleep", lambda seconds: None)
    message = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 1"
    _program(
        programs,
        "apt-get",
        f'test "$(wc -l <{programs}/calls)" -gt 2 || {{ echo "{message}" >&2; exit 100; }}',
    )
    _apt.update(60)
    assert len(_calls(programs)) == 3


def test_lock_that_stays_ends_the_wait(programs: Path) -> None:
    _program(programs, "apt-get", "echo 'E: Could not get lock /var/lib/apt/lists/lock' >&2; exit 100")
    with pytest.raises(_apt.AptError, match="apt-get update failed: E: Could not get lock"):
        _apt.update(0)


def test_failure_tells_the_last_words(programs: Path) -> None:
    _program(programs, "apt-get", "echo 'E: Unable to locate package docker.io' >&2; exit 100")
    with pytest.raises(_apt.AptError, match="Unable to locate package"):
        _apt.install(["docker.io"], 60)
    assert len(_calls(programs)) == 1
