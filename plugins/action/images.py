# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.skasrc.cavern.plugins.module_utils import _images

ROOT = Path(__file__).parents[2]


class ActionModule(ActionBase):
    """Reads recipes and sources on the controller; the module asks for the contexts that it has to build."""

    TRANSFERS_FILES = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(argument_spec=_images.ARGUMENT_SPEC)
        recipes = arguments["recipes"]
        if arguments["source"] != "build" or arguments["state"] != "present":
            return self._module(arguments, task_vars)
        settings = {"suite": arguments["debian_suite"]}
        try:
            names = self._needed(arguments, recipes)
            digests = _images.inputs(recipes, names, ROOT, settings)
            arguments["recipes"] = {name: dict(recipes[name]) | {"inputs": digests[name]} for name in names}
            result = self._module(arguments, task_vars)
            if result.get("failed") or self._task.check_mode or not result.get("to_build"):
                return result
            return self._build(arguments, recipes, result["to_build"], task_vars)
        except _images.RecipeError as error:
            raise AnsibleActionFail(str(error)) from error

    def _needed(self, arguments: dict[str, Any], recipes: dict[str, Any]) -> list[str]:
        ours = {f"{arguments['prefix']}/{name}:{arguments['tag']}": name for name in recipes}
        return _images.closure(recipes, [ours[image] for image in arguments["images"] if image in ours])

    def _build(
        self,
        arguments: dict[str, Any],
        recipes: dict[str, Any],
        names: list[str],
        task_vars: dict[str, Any] | None,
    ) -> dict[str, Any]:
        """Run the module again, with the contexts of what it has to build."""
        self._connection._shell.tmpdir or self._make_tmp_path()
        remote = self._connection._shell.tmpdir
        with tempfile.TemporaryDirectory() as local:
            for name in names:
                path = Path(local, f"{name}.tar")
                path.write_bytes(_images.context(name, recipes[name], ROOT))
                target = self._connection._shell.join_path(remote, path.name)
                self._transfer_file(str(path), target)
                arguments["recipes"][name]["context"] = target
            self._fixup_perms2(
                (remote, *(r["context"] for r in arguments["recipes"].values() if "context" in r))
            )
            return self._module(arguments, task_vars)

    def _module(self, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(
            module_name="skasrc.cavern.images", module_args=arguments, task_vars=task_vars
        )
        return result
