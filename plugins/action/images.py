# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.skasrc.cavern.plugins.plugin_utils import _live
from ansible_collections.skasrc.cavern.plugins.plugin_utils._contexts import BuildingAction


class ActionModule(BuildingAction):
    """Run the module, and once more with the contexts of the images that it has to build."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments = self._with_inputs(self._task.args)
        result = self._module(arguments, task_vars)
        to_build = result.pop("to_build", [])
        if to_build:
            self._send_contexts(arguments["recipes"], to_build)
            result = self._module(arguments, task_vars)
            result.pop("to_build", None)
        return result

    def _module(self, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        with _live.followed(self):
            result: dict[str, Any] = self._execute_module(
                module_name="skasrc.cavern.images", module_args=arguments, task_vars=task_vars
            )
        return result
