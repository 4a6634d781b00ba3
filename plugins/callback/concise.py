# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: concise
type: stdout
short_description: Print what is being done, what changed and what failed, and nothing else
version_added: 1.0.0
description:
  - Prints each play, each task that changed something, with its time, the messages of C(ansible.builtin.debug) tasks,
    failures as C(ansible.builtin.default) prints them, and what is waited for once.
  - While M(skasrc.cavern.converge) and M(skasrc.cavern.images) run on this machine, prints each image that is built and
    each container that becomes healthy. On a terminal, a last line says what is going on.
  - With C(-v) it prints what C(ansible.builtin.default) prints.
author:
  - Cavern deployment team (@skasrc)
extends_documentation_fragment:
  - default_callback
  - result_format_callback
"""

import os
import sys
import time
from typing import Any

from ansible.constants import config
from ansible.plugins.callback.default import CallbackModule as Default
from ansible_collections.skasrc.cavern.plugins.module_utils._logs import printable
from ansible_collections.skasrc.cavern.plugins.plugin_utils import _live

DEBUG = ("debug", "ansible.builtin.debug")
# Only of these modules is known what their results mean.
OWN = "skasrc.cavern."
CHANGED = config.get_config_value("COLOR_CHANGED")
# Most reasons that are printed for one action.
REASONS = 3


class CallbackModule(Default):
    """Leave out what nobody waits for."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "skasrc.cavern.concise"

    def __init__(self) -> None:
        super().__init__()
        self._begun = time.monotonic()
        self._task_begun = self._begun
        self._waited: set[str] = set()
        # Of the processes that run the tasks, too.
        os.environ.setdefault(_live.VIEW, _live.TERMINAL if sys.stdout.isatty() else _live.LINES)

    @property
    def _verbose(self) -> bool:
        return bool(self._display.verbosity)

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self._task_begun = time.monotonic()
        if self._verbose:
            super().v2_playbook_on_task_start(task, is_conditional)
            return
        # A failure prints its banner itself.
        self._last_task_name = task.get_name().strip()
        self._last_task_banner = None

    def v2_runner_on_ok(self, result: Any) -> None:
        if self._verbose:
            super().v2_runner_on_ok(result)
            return
        self._handle_warnings_and_exception(result)
        if result.task.action in DEBUG:
            message = result.result.get("msg", "")
            for line in message if isinstance(message, list) else str(message).splitlines():
                self._print(line)
        elif result.result.get("changed") and not result.task.loop:
            self._changed(result)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        if self._verbose:
            super().v2_runner_item_on_ok(result)
            return
        if result.task.action in DEBUG:
            self._print(result.result.get("msg", ""))
        elif result.result.get("changed"):
            self._changed(result, self._get_item_label(result.result))

    def _changed(self, result: Any, item: Any = None) -> None:
        name = result.task.get_name().strip()
        took = time.monotonic() - self._task_begun
        label = f"{name}: {item}" if item is not None else name
        changed = "would change" if result.task.check_mode else "changed"
        self._display.display(
            f"{changed} [{self.host_label(result)}] {printable(label)} ({took:.1f} s)", color=CHANGED
        )
        if (result.task.resolved_action or "").startswith(OWN):
            for action in result.result.get("actions") or []:
                reasons = _joined(action.get("reasons") or [])
                self._print(
                    f"{action['action']} {action['object']} {action['name']}{reasons and f': {reasons}'}"
                )

    def _print(self, line: Any) -> None:
        # What services and users wrote moves no terminal.
        self._display.display(f"  {printable(str(line))}")

    def v2_runner_on_skipped(self, result: Any) -> None:
        if self._verbose:
            super().v2_runner_on_skipped(result)

    def v2_runner_item_on_skipped(self, result: Any) -> None:
        if self._verbose:
            super().v2_runner_item_on_skipped(result)

    def v2_playbook_on_include(self, included_file: Any) -> None:
        if self._verbose:
            super().v2_playbook_on_include(included_file)

    def v2_runner_retry(self, result: Any) -> None:
        if self._verbose:
            super().v2_runner_retry(result)
            return
        if result.task._uuid not in self._waited:
            self._waited.add(result.task._uuid)
            self._display.display(f"waiting [{self.host_label(result)}] {result.task.get_name().strip()}")

    def v2_playbook_on_start(self, playbook: Any) -> None:
        self._begun = time.monotonic()
        super().v2_playbook_on_start(playbook)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        super().v2_playbook_on_stats(stats)
        self._display.display(f"Took {time.monotonic() - self._begun:.1f} s")


def _joined(reasons: list[str]) -> str:
    """Return the first reasons, and how many there are besides."""
    more = len(reasons) - REASONS
    return "; ".join([*reasons[:REASONS], *([f"and {more} more"] if more > 0 else [])])
