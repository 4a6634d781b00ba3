# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Inputs and build contexts that the controller adds to a run that may build images.

Private to the collection.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase
from ansible_collections.skasrc.cavern.plugins.module_utils._images import recipes as _recipes

ROOT = Path(__file__).parents[2]


class BuildingAction(ActionBase):
    """Read recipes and sources on the controller; the module asks for the contexts that it has to build."""

    TRANSFERS_FILES = True

    def _with_inputs(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of the module images with only the needed recipes, each with its inputs."""
        checked = ArgumentSpecValidator(_recipes.ARGUMENT_SPEC).validate(given)
        if checked.error_messages:
            raise AnsibleActionFail(f"images: {'; '.join(checked.error_messages)}")
        arguments: dict[str, Any] = checked.validated_parameters
        if arguments["state"] != "present":
            return arguments
        if arguments["source"] != "build":
            _refuse_directories(arguments)
            return arguments
        recipes, wanted = arguments["recipes"], set(arguments["images"])
        settings = {
            key: arguments[key] for key in ("debian_suite", "debian_mirror", "debian_security_mirror")
        }
        try:
            names = _recipes.closure(
                recipes,
                [name for name in recipes if f"{arguments['prefix']}/{name}:{arguments['tag']}" in wanted],
            )
            parts = _recipes.parts(recipes, names, ROOT, settings)
            completed = {
                name: recipes[name]
                | {"inputs": _recipes.digest(parts[name]), "parts": parts[name]}
                | ({"version": _recipes.version(recipes[name], ROOT)} if recipes[name].get("version") else {})
                for name in names
            }
        except (_recipes.RecipeError, OSError) as error:
            raise AnsibleActionFail(str(error)) from error
        return arguments | {"recipes": completed}

    def _send_contexts(self, recipes: dict[str, Any], names: list[str]) -> None:
        """Copy the contexts of the named recipes to the host, and add their paths to the recipes."""
        if not self._connection._shell.tmpdir:
            self._make_tmp_path()
        remote = self._connection._shell.tmpdir
        sent = []
        with tempfile.TemporaryDirectory() as local:
            for name in names:
                archive = Path(local, f"{name}.tar")
                archive.write_bytes(_recipes.context(name, recipes[name], ROOT))
                target = self._connection._shell.join_path(remote, archive.name)
                self._transfer_file(str(archive), target)
                recipes[name]["context"] = target
                sent.append(target)
        self._fixup_perms2((remote, *sent))


def _refuse_directories(arguments: dict[str, Any]) -> None:
    """Refuse to pull or load what is to be built from a directory."""
    for name, recipe in arguments["recipes"].items():
        if (
            recipe.get("directory")
            and f"{arguments['prefix']}/{name}:{arguments['tag']}" in arguments["images"]
        ):
            raise AnsibleActionFail(
                f"images: {recipe['directory']} is to be built, while all images are to be {arguments['source']}ed: "
                "build it where source is build, push it, and name it by image in deployment_service_overrides"
            )
