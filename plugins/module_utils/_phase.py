# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Phase of a deployment: one module runs it alone, and the module converge together with others.

Private to the collection. A phase has an `ARGUMENT_SPEC`, and `run(module, options)`, which brings the host to the
state that the options say and returns a result with `changed`, `actions` and `diff`, or raises PhaseError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.module_utils.basic import AnsibleModule

Result = dict[str, Any]


class PhaseError(Exception):
    """The wanted state cannot be reached; the message says why and what to do, *result* what was done before."""

    def __init__(self, message: str, **result: Any) -> None:
        super().__init__(message)
        self.result = result


def run_alone(spec: dict[str, Any], run: Callable[[AnsibleModule, dict[str, Any]], Result]) -> None:
    """Run a phase as the main function of a module."""
    module = AnsibleModule(spec, supports_check_mode=True)
    try:
        result = run(module, module.params)
    except PhaseError as error:
        module.fail_json(msg=str(error), **error.result)
    module.exit_json(**result)
