# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.skasrc.cavern.plugins.plugin_utils import _live
from ansible_collections.skasrc.cavern.plugins.plugin_utils._contexts import BuildingAction


class ActionModule(BuildingAction):
    """Run the module, again as long as it asks for that, and return the joined results."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if arguments.get("images") is not None:
            arguments["images"] = self._with_inputs(arguments["images"])
        result: dict[str, Any] = {}
        again: dict[str, Any] | None = {"done": [], "to_build": []}
        while again is not None:
            for name in again["done"]:
                del arguments[name]
            if again["to_build"]:
                self._send_contexts(arguments["images"]["recipes"], again["to_build"])
            with _live.followed(self):
                run = self._execute_module(
                    module_name="skasrc.cavern.converge", module_args=arguments, task_vars=task_vars
                )
            again = run.pop("again", None)
            result = _joined(result, run)
        return result


def _joined(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Join the results of two runs."""
    joined = before | after
    for name in ("actions", "diff"):
        if name in before or name in after:
            joined[name] = before.get(name, []) + after.get(name, [])
    return joined | {"changed": before.get("changed", False) or after.get("changed", False)}
