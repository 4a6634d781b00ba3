# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a module's main() as Ansible does: options in, one JSON result out."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args

RunModule = Callable[..., dict[str, Any]]


@pytest.fixture
def run_module(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> RunModule:
    """`run_module(module, check=False, **options)`: the result; a failed run has `failed` in it."""
    warnings: list[str] = []
    # In a process that has loaded the controller's code, Ansible would show warnings instead of returning them.
    monkeypatch.setattr(AnsibleModule, "warn", lambda _module, warning: warnings.append(warning))

    def run(module: ModuleType, check: bool = False, **options: Any) -> dict[str, Any]:
        capsys.readouterr()
        warnings.clear()
        with patch_module_args({**options, "_ansible_check_mode": check}), pytest.raises(SystemExit) as ended:
            module.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert ended.value.code == int(result.get("failed", False))
        return result | {"warnings": list(warnings)}

    return run
