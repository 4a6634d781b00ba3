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
        if arguments["source"] != "build" or arguments["state"] != "present":
            return self._module(arguments, task_vars)
        recipes = arguments["recipes"]
        try:
            arguments["recipes"] = self._with_inputs(arguments, recipes)
            result = self._module(arguments, task_vars)
            names = result.pop("to_build", [])
            if result.get("failed") or self._task.check_mode or not names:
                return result
            return self._build(arguments, recipes, names, task_vars)
        except (_images.RecipeError, OSError) as error:
            raise AnsibleActionFail(str(error)) from error

    def _with_inputs(self, arguments: dict[str, Any], recipes: dict[str, Any]) -> dict[str, Any]:
        """The recipes of the needed images, each with what it is made from."""
        wanted = set(arguments["images"])
        names = _images.closure(
            recipes,
            [name for name in recipes if f"{arguments['prefix']}/{name}:{arguments['tag']}" in wanted],
        )
        settings = {
            key: arguments[key] for key in ("debian_suite", "debian_mirror", "debian_security_mirror")
        }
        parts = _images.parts(recipes, names, ROOT, settings)
        return {
            name: recipes[name]
            | {"inputs": _images.digest(parts[name]), "parts": parts[name]}
            | ({"version": _images.version(recipes[name], ROOT)} if recipes[name].get("version") else {})
            for name in names
        }

    def _build(
        self,
        arguments: dict[str, Any],
        recipes: dict[str, Any],
        names: list[str],
        task_vars: dict[str, Any] | None,
    ) -> dict[str, Any]:
        """Run the module again, with the contexts of what it has to build."""
        if not self._connection._shell.tmpdir:
            self._make_tmp_path()
        remote = self._connection._shell.tmpdir
        contexts = []
        with tempfile.TemporaryDirectory() as local:
            for name in names:
                path = Path(local, f"{name}.tar")
                path.write_bytes(_images.context(name, recipes[name], ROOT))
                target = self._connection._shell.join_path(remote, path.name)
                self._transfer_file(str(path), target)
                arguments["recipes"][name]["context"] = target
                contexts.append(target)
        self._fixup_perms2((remote, *contexts))
        result = self._module(arguments, task_vars)
        result.pop("to_build", None)
        return result

    def _module(self, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(
            module_name="skasrc.cavern.images", module_args=arguments, task_vars=task_vars
        )
        return result
