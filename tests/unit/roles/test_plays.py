# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A play that uses a setting names the role that has it: in any other the setting is undefined."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
# ansible-test runs these files where the checkout's other directories are not.
FILES = sorted(
    file for pattern in ("playbooks/*.yml", "tests/stack/modules/*.yml") for file in ROOT.glob(pattern)
)
SERVICES = (ROOT / "roles/services/meta/main.yml").read_text()
# A restore begins with it, as an extra variable, which every play has.
EXTRA = {"backup_source"}
ROLE = re.compile(r"\b(?:role|name): skasrc\.cavern\.([a-z_]+)")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_play_names_the_roles_whose_settings_it_uses(file: Path) -> None:
    owners = {
        name: defaults.parent.parent.name
        for defaults in ROOT.glob("roles/*/defaults/main.yml")
        for name in yaml.safe_load(defaults.read_text())
    }
    for play in yaml.safe_load(file.read_text()):
        # What a playbook hands to another's plays, those have.
        text = "" if "ansible.builtin.import_playbook" in play else yaml.safe_dump(play)
        named = set(ROLE.findall(text))
        if "services" in named:
            named |= set(ROLE.findall(SERVICES))
        words = set(re.findall(r"\b[a-z][a-z0-9_]+\b", text))
        missing = {
            name: owner for name, owner in owners.items() if name in words - EXTRA and owner not in named
        }
        assert missing == {}
