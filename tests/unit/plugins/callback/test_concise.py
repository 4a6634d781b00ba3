# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The usual callback: what a real playbook run prints with it."""

from __future__ import annotations

import json
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
    - name: Leave as it is
      ansible.builtin.command: "true"
      changed_when: false
    - name: Leave out
      ansible.builtin.command: "false"
      when: false
    - name: Change
      ansible.builtin.command: "true"
      changed_when: true
    - name: Predict
      ansible.builtin.copy: {content: "", dest: "{{ counter }}.new"}
      when: ansible_check_mode
    - name: Change some
      ansible.builtin.command: "true"
      changed_when: item == "second"
      loop: [first, second]
    - name: Wait
      ansible.builtin.shell: echo >> {{ counter }}; test $(wc -l < {{ counter }}) -gt 3
      register: waited
      until: waited is succeeded
      changed_when: false
      retries: 9
      delay: 0
    - name: Print
      ansible.builtin.debug:
        msg: [one, "two\\e[2J"]
    - name: Break
      ansible.builtin.assert:
        that: fine
        fail_msg: it broke
"""


def _run(directory: Path, *arguments: str, fine: bool = True) -> list[str]:
    playbook = directory / "playbook.yml"
    playbook.write_text(PLAYBOOK)
    environment = os.environ | {
        "ANSIBLE_STDOUT_CALLBACK": "skasrc.cavern.concise",
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
        "ANSIBLE_NOCOLOR": "1",
    }
    settings = json.dumps(
        {"fine": fine, "counter": f"{directory}/counter", "ansible_python_interpreter": sys.executable}
    )
    program = Path(sys.executable).parent / "ansible-playbook"
    done = subprocess.run(
        [program, "--inventory=localhost,", playbook, "-e", settings, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert bool(done.returncode) is not fine, done.stderr
    return [line for line in done.stdout.splitlines() if line]


def _is_timed(line: str, begin: str) -> bool:
    return line.startswith(f"{begin} (") and line.endswith(" s)")


def test_what_changes_and_what_is_said_is_printed_alone(tmp_path: Path) -> None:
    play, changed, item, waiting, *said, recap, counts, took = _run(tmp_path)
    assert play.startswith("PLAY [Test]")
    assert _is_timed(changed, "changed [localhost] Change")
    assert _is_timed(item, "changed [localhost] Change some: second")
    assert waiting == "waiting [localhost] Wait"
    assert said == ["  one", r"  two\x1b[2J"]
    assert recap.startswith("PLAY RECAP")
    assert "changed=2" in counts
    assert took.startswith("Took ")


def test_check_mode_says_what_would_change(tmp_path: Path) -> None:
    assert any(_is_timed(line, "would change [localhost] Predict") for line in _run(tmp_path, "--check"))


def test_a_failure_is_printed_in_full(tmp_path: Path) -> None:
    printed = "\n".join(_run(tmp_path, fine=False))
    assert "TASK [Break]" in printed
    assert "fatal: [localhost]: FAILED!" in printed
    assert "it broke" in printed


def test_a_verbose_run_prints_every_task(tmp_path: Path) -> None:
    tasks = [line.split("[")[1].split("]")[0] for line in _run(tmp_path, "-v") if line.startswith("TASK [")]
    assert tasks == [
        "Leave as it is",
        "Leave out",
        "Change",
        "Predict",
        "Change some",
        "Wait",
        "Print",
        "Break",
    ]
