# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = """
name: services
author: The Cavern deployment team (@ska-telescope)
version_added: 1.0.0
short_description: Services that roles provide
description:
  - Reads the entries of the catalogue from the roles that own them, as C(<role>_services) in C(vars/main.yml).
  - The roles need not be part of the play. Their entries may use the settings of the deployment, and no others.
options:
  _terms:
    description: Roles outside of the collection that provide services as well. Their names, or names in a collection.
    type: list
    elements: str
    default: []
seealso:
  - plugin: skasrc.cavern.resolve_catalogue
    plugin_type: filter
"""

EXAMPLES = """
- name: Show what the role reg provides
  ansible.builtin.debug:
    msg: "{{ lookup('skasrc.cavern.services').reg }}"
"""

RETURN = """
_raw:
  description: The entries by role and by the key of the service.
  type: list
  elements: dict
"""

from collections.abc import Callable
from typing import Any

import ansible.template
from ansible.plugins.lookup import LookupBase
from ansible_collections.skasrc.cavern.plugins.plugin_utils import _services

# ansible-core before 2.19 trusts every text.
TRUST: Callable[[str], str] = getattr(ansible.template, "trust_as_template", str)


def _trusted(value: Any) -> Any:
    """A value of a role's file with its templates marked as such, as Ansible's own reader of files does."""
    if isinstance(value, str):
        return TRUST(value)
    if isinstance(value, list):
        return [_trusted(item) for item in value]
    return {key: _trusted(item) for key, item in value.items()} if isinstance(value, dict) else value


class LookupModule(LookupBase):
    """Reads and resolves the entries; nothing else of the roles is templated."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[Any]:
        self.set_options(var_options=variables, direct=kwargs)
        path = _services.search_path(self._loader)
        templar: Any = self._templar
        found: dict[str, Any] = {}
        for role in [*_services.own(), *terms]:
            entries = _services.entries(role, _services.statement(role, path))
            found[role] = templar.template(_trusted(entries))
        return [found]
