# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: messages
type: stdout
short_description: Print only the messages of debug tasks
version_added: 0.1.0
description:
  - Prints the messages of C(ansible.builtin.debug) tasks to standard output and nothing else, so that a
    playbook can be used in a pipe.
  - Whatever else writes to standard output, such as C(-v), a debugging run or another callback, is kept apart by
    O(descriptor).
  - Failures go to standard error. The exit code of C(ansible-playbook) tells of them as usual.
author:
  - Cavern deployment team (@skasrc)
options:
  descriptor:
    description: Open file descriptor to print the messages to.
    type: int
    default: 1
    env:
      - name: CAVERN_MESSAGES_DESCRIPTOR
"""

import sys
from typing import Any

from ansible.plugins.callback import CallbackBase
from ansible_collections.skasrc.cavern.plugins.module_utils._logs import printable


class CallbackModule(CallbackBase):
    """Write only the messages to standard output."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "skasrc.cavern.messages"

    def v2_runner_on_ok(self, result: Any) -> None:
        if result._task.action in ("debug", "ansible.builtin.debug"):
            message = result._result.get("msg", "")
            lines = message if isinstance(message, list) else [message]
            with open(self.get_option("descriptor"), "w", encoding="utf-8", closefd=False) as output:
                output.write("".join(f"{line}\n" for line in lines))

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        # The items of a loop have complained already.
        if not ignore_errors and "results" not in result._result:
            self._complain(result)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        self._complain(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._complain(result)

    def v2_playbook_on_no_hosts_matched(self) -> None:
        sys.stderr.write("No host of the inventory matches.\n")

    def _complain(self, result: Any) -> None:
        message = result._result.get("msg", "failed")
        # What a service answered moves no terminal; lines stay lines.
        text = "\n".join(map(printable, str(message).splitlines()))
        sys.stderr.write(f"{result._host.get_name()}: {result._task.get_name()}: {text}\n")
