# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the targets of the Makefile hand on to ``ansible-playbook``."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = {
    "ARGS": "-e logs_tail=1",
    "BACKUP": "backups/x",
    "INVENTORY": "inventory/other",
    "JSON": "true",
    "SINCE": "15m",
    "TASK": "a-task",
    "USER": "ada",
}
PLAYBOOK = """#!/usr/bin/env python3
import json, os, sys
told = json.dumps({"arguments": sys.argv[1:], "environment": dict(os.environ)})
# Where the callback prints messages to.
os.write(int(os.environ.get("CAVERN_MESSAGES_DESCRIPTOR", "1")), f"{told}\\n".encode())
"""


@pytest.fixture
def run(tmp_path: Path):
    """Run make with a program in the place of ``ansible-playbook`` that tells how it was called."""
    program, made = tmp_path / "playbook", tmp_path / "deploy"
    program.write_text(PLAYBOOK)
    program.chmod(0o755)
    made.touch()

    def run(target: str, environment: dict[str, str] | None = None, **arguments: str) -> dict:
        done = subprocess.run(
            ["make", "--silent", target, f"PLAYBOOK={program}", f"DEPLOY={made}", f"KUBERNETES={made}"]
            + [f"{name}={value}" for name, value in arguments.items()],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"]} | (environment or {}),
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.mark.parametrize("where", ["arguments", "environment"])
@pytest.mark.parametrize(
    "target", ["certificate", "revoke", "token", "sign-in", "logs", "status", "restore", "check"]
)
def test_arguments_of_a_target_are_not_in_the_environment(run, target: str, where: str) -> None:
    """A ``USER`` there is whom Ansible works as: files were made below ``~ada``, a directory named so."""
    told = run(target, **ARGUMENTS) if where == "arguments" else run(target, environment=ARGUMENTS)
    assert not ARGUMENTS.keys() & told["environment"].keys()
    assert told["environment"]["ANSIBLE_CONFIG"] == str(ROOT / "ansible.cfg")


@pytest.mark.parametrize(
    ("target", "handed"),
    [
        ("certificate", "user=ada"),
        ("token", "user=ada"),
        ("logs", "logs_task=a-task"),
        ("logs", "logs_since=15m"),
        ("status", "status_json=true"),
        ("restore", f"backup_source='{ROOT}/backups/x'"),
        ("kubernetes-restore", f"backup_source='{ROOT}/backups/x'"),
        ("check", "inventory/other"),
        ("check", "logs_tail=1"),
    ],
)
def test_arguments_of_a_target_reach_its_playbook(run, target: str, handed: str) -> None:
    assert handed in run(target, **ARGUMENTS)["arguments"]


@pytest.mark.parametrize("target", ["certificate", "token", "sign-in"])
def test_the_user_of_the_shell_is_not_whom_a_credential_is_for(run, target: str) -> None:
    """The playbook says that a user must be named."""
    told = run(target, environment={"USER": "root", "LOGNAME": "root"})
    assert not any("user=" in argument for argument in told["arguments"])
    assert told["environment"]["LOGNAME"] == "root"


def test_paths_may_have_blanks(run) -> None:
    told = run("restore", BACKUP="/srv/my backups/x", INVENTORY="my inventory")
    assert "backup_source='/srv/my backups/x'" in told["arguments"]
    assert "my inventory" in told["arguments"]


@pytest.mark.parametrize("target", ["check", "token"])
def test_the_shell_is_set_up_for_other_work(run, target: str) -> None:
    foreign = dict.fromkeys(("ANSIBLE_COLLECTIONS_PATH", "PYTHONPATH"), "/nowhere")
    told = run(target, environment=foreign | {"LC_ALL": "xx_XX", "LANG": "xx_XX.UTF-8"})
    assert not foreign.keys() & told["environment"].keys()
    assert told["environment"]["LC_ALL"] == "C.UTF-8"
