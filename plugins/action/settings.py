# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase
from ansible_collections.skasrc.cavern.plugins.plugin_utils import _settings

ROOT = Path(__file__).parents[2]


class ActionModule(ActionBase):
    """Run on the controller, where the settings are."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        variables = task_vars or {}
        _validation, options = self.validate_argument_spec(
            argument_spec={"others": {"type": "list", "elements": "str", "default": []}}
        )
        roles = _settings.specs(ROOT)
        given = self._given(variables) - set(options["others"])
        wrong = list(_settings.unknown(given, roles))
        wrong += _settings.outdated({name: variables[name] for name in given if name in variables})
        schemas = _settings.schemas(ROOT)
        for settings in roles.values():
            for name, spec in settings.items():
                if name in schemas and name in variables:
                    wrong += _settings.unfit(name, schemas[name], variables[name], self._resolve)
                elif name in variables:
                    wrong += self._wrong(name, spec, variables[name])
        if wrong:
            raise AnsibleActionFail("\n".join(wrong))
        return {"changed": False}

    def _wrong(self, name: str, spec: _settings.Spec, value: Any) -> list[str]:
        wrong = list(_settings.misshapen(name, spec, value, self._resolve))
        if wrong:
            return wrong
        try:
            checked = ArgumentSpecValidator({name: spec}).validate({name: self._resolve(value)})
            messages: list[str] = checked.error_messages
            return messages
        except LookupError:
            return []

    def _given(self, variables: dict[str, Any]) -> set[str]:
        """Return the variables that come from an inventory or the command line, not from a play or its tasks."""
        manager = self._task.get_variable_manager()
        host = variables["inventory_hostname"]
        # Without the play, and so without the roles' own variables; what earlier tasks set, and what they included, is
        # among them all the same, in later plays too.
        given = set(variables["hostvars"].raw_get(host))
        for kept in (manager._nonpersistent_fact_cache, manager._vars_cache):
            given -= set(kept.get(host, ()))
        return given | set(manager.extra_vars)

    def _resolve(self, value: Any) -> Any:
        try:
            return self._templar.template(value)
        except AnsibleError as error:
            # It takes something that is not there in every play, or only later in this one.
            raise LookupError from error
