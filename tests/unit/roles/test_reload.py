# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program by which a service reloads the code of a checkout."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAM = Path(__file__).parents[3] / "roles/services/files/reload"
WAITS = "import code, time; print(code.ANSWER, flush=True); time.sleep(600)"


@contextmanager
def running(directory: Path) -> Iterator[Callable[[], str]]:
    """Run the program over a directory; yield what reads its next line."""
    command = [sys.executable, str(PROGRAM), str(directory), sys.executable, "-B", "-c", WAITS]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={"PYTHONPATH": str(directory)},
    ) as process:
        assert process.stdout
        yield lambda: process.stdout.readline().strip() if process.stdout else ""
        process.terminate()
        # Its output ends with the command that it ran.
        assert process.stdout.read() == ""
        assert process.wait() == 128 + signal.SIGTERM


def test_a_change_runs_the_command_anew(tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    code.write_text("ANSWER = 41")
    with running(tmp_path) as line:
        assert line() == "41"
        code.write_text("ANSWER = 4200")
        assert json.loads(line()) == {
            "level": "INFO",
            "logger": "reload",
            "message": "reloading",
            "changed": [str(code)],
        }
        assert line() == "4200"


def test_code_that_cannot_be_read_is_waited_for(tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    code.write_text("(")
    with running(tmp_path) as line:
        added = tmp_path / "added.py"
        code.write_text("ANSWER = 1")
        added.write_text("")
        while (read := line()) != "1":
            assert json.loads(read)["message"] == "reloading"


def test_tests_and_caches_are_none_of_the_code(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("ANSWER = 1")
    (tmp_path / "tests").mkdir()
    (tmp_path / "__pycache__").mkdir()
    with running(tmp_path) as line:
        assert line() == "1"
        (tmp_path / "tests/test_code.py").write_text("")
        (tmp_path / "__pycache__/code.pyc").write_text("")
        (tmp_path / "data.json").write_text("{}")
        assert json.loads(line())["changed"] == [str(tmp_path / "data.json")]
        assert line() == "1"
