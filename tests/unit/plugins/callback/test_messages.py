# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The callback for pipes: what a real playbook run prints with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PLAYBOOK = """\
- name: Test
  hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - name: Work
      ansible.builtin.set_fact:
        value: noise
    - name: Print a text
      ansible.builtin.debug:
        msg: the-token
    - name: Print lines
      ansible.builtin.debug:
        msg: [first, second]
    - name: Break for one item
      ansible.builtin.assert:
        that: item
        fail_msg: an item broke
      loop: [true, "{{ fine }}"]
    - name: Break
      ansible.builtin.assert:
        that: fine
        fail_msg: it broke
"""


def _run(
    directory: Path, fine: bool, pass_fds: tuple[int, ...] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    playbook = directory / "playbook.yml"
    playbook.write_text(PLAYBOOK)
    environment = (
        os.environ
        | variables
        | {
            "ANSIBLE_STDOUT_CALLBACK": "skasrc.cavern.messages",
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
        }
    )
    program = Path(sys.executable).parent / "ansible-playbook"
    return subprocess.run(
        [program, "--inventory=localhost,", playbook, "-e", f'{{"fine": {str(fine).lower()}}}'],
        capture_output=True,
        text=True,
        env=environment,
        pass_fds=pass_fds,
        check=False,
    )


def test_standard_output_holds_the_messages_alone(tmp_path: Path) -> None:
    done = _run(tmp_path, fine=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the-token\nfirst\nsecond\n", "")


def test_failure_goes_to_standard_error(tmp_path: Path) -> None:
    done = _run(tmp_path, fine=False)
    assert done.returncode == 2
    assert done.stdout == "the-token\nfirst\nsecond\n"
    assert done.stderr.splitlines()[-1] == "localhost: Break for one item: an item broke"


def test_another_descriptor_keeps_the_messages_apart_from_all_else(tmp_path: Path) -> None:
    apart = tmp_path / "apart"
    with apart.open("w") as output:
        environment = {"ANSIBLE_VERBOSITY": "1", "CAVERN_MESSAGES_DESCRIPTOR": str(output.fileno())}
        done = _run(tmp_path, fine=True, pass_fds=(output.fileno(),), **environment)
    assert done.returncode == 0
    assert apart.read_text() == "the-token\nfirst\nsecond\n"
    assert "the-token" not in done.stdout
