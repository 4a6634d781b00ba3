# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every setting of a role has a meaning in its argument specs, and nothing is documented that is no setting."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

ROLES = sorted(path for path in (Path(__file__).parents[3] / "roles").iterdir() if path.is_dir())


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_defaults_and_argument_specs_agree(role: Path) -> None:
    defaults = role / "defaults/main.yml"
    settings = set(yaml.safe_load(defaults.read_text()) or {}) if defaults.exists() else set()
    if not (role / "meta/argument_specs.yml").exists():
        # Ansible validates at each run what has a specification, for which a role without settings has no use.
        assert not settings
        return
    entry = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]
    optional = {name for name, option in entry["options"].items() if not option.get("required")}
    assert settings == optional
    assert settings
    assert entry["description"]
    for name, option in entry["options"].items():
        assert option["description"], name
