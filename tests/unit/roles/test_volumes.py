# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a restore does with a volume in a cluster: it has the old files or the new ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[3] / "roles/kubernetes/files/volumes.py"


def run(what: str, *volumes: Path) -> str:
    done = subprocess.run(
        [sys.executable, PROGRAM, what, *volumes], capture_output=True, text=True, check=True
    )
    return done.stdout


def names(volume: Path) -> list[str]:
    return sorted(str(path.relative_to(volume)) for path in volume.rglob("*"))


def test_an_empty_volume_has_no_data(tmp_path: Path) -> None:
    for name in ("lost+found", ".restored", ".replaced"):
        (tmp_path / name).mkdir()
    assert json.loads(run("look", tmp_path)) == []
    (tmp_path / ".hidden").touch()
    assert json.loads(run("look", tmp_path)) == [str(tmp_path)]


def test_the_new_files_take_the_place_of_the_old_ones(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "cavern/home").mkdir(parents=True)
    (tmp_path / "cavern/home/old").touch()
    run("stage", tmp_path)
    saved = tmp_path / ".restored/cavern_data"
    (saved / "cavern/home").mkdir(parents=True)
    (saved / "cavern/home/new").touch()
    saved.chmod(0o2751)
    os.utime(saved, ns=(5, 123_456_789))
    run("switch", tmp_path)
    assert names(tmp_path) == ["cavern", "cavern/home", "cavern/home/new", "lost+found"]
    assert tmp_path.stat().st_mode & 0o7777 == 0o2751
    assert tmp_path.stat().st_mtime_ns == 123_456_789


def test_what_was_broken_off_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "cavern").mkdir()
    for name in (".restored/cavern_data/half", ".replaced/cavern/former"):
        (tmp_path / name).mkdir(parents=True)
    run("stage", tmp_path)
    assert names(tmp_path) == [".restored", "cavern"]
