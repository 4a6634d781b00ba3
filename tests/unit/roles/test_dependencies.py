# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A role may use variables of another one, but not of one that uses its own: no circle, as if they were imports."""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import yaml

ROLES = Path(__file__).parents[3] / "roles"
# Facts that the whole run has: the catalogue and the secrets.
FACTS = {"deployment_catalogue", "deployment_secrets"}


def owners(roles: Path) -> dict[str, str]:
    """Role that gives each variable its value."""
    return {
        name: file.relative_to(roles).parts[0]
        for pattern in ("*/defaults/*.yml", "*/vars/*.yml")
        for file in roles.glob(pattern)
        for name in yaml.safe_load(file.read_text()) or {}
        if name not in FACTS
    }


def uses(roles: Path) -> dict[str, set[str]]:
    """Roles whose variables each role uses."""
    found: dict[str, set[str]] = {}
    owner = owners(roles)
    for pattern in ("*/defaults/*.yml", "*/vars/*.yml", "*/tasks/*.yml", "*/templates/**/*.j2"):
        for file in roles.glob(pattern):
            role = file.relative_to(roles).parts[0]
            # Neither comments nor what is quoted: names of settings in messages.
            text = re.sub(
                r"(?m)^\s*#.*$|^\s*text: >-(\n {6,}.*)+|^\s*text: .*$|\'[^\'\n]*\'", "", file.read_text()
            )
            named = set(re.findall(r"(?<![\w.])[a-z_]\w*", text))
            found.setdefault(role, set()).update({owner[name] for name in named & owner.keys()} - {role})
    return found


def test_roles_use_each_other_without_a_circle() -> None:
    assert "core" in uses(ROLES)["celery_worker"]
    try:
        list(TopologicalSorter(uses(ROLES)).static_order())
    except CycleError as circle:
        pytest.fail(f"roles use each other in a circle: {' -> '.join(circle.args[1])}")


def test_only_what_joins_all_roles_names_a_service_of_another() -> None:
    """A setting of one service in the role of the deployment would be in the wrong room."""
    assert uses(ROLES)["deployment"] == set()
    assert uses(ROLES)["services"] <= {"deployment"}
    assert uses(ROLES)["network"] <= {"deployment"}
