# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = """
name: services
author: The Cavern deployment team (@ska-telescope)
version_added: 0.1.0
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

from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.skasrc.cavern.plugins.plugin_utils import _services

try:
    from ansible.template import trust_as_template  # noqa: F401 - tells which Ansible this is
except ImportError:  # ansible-core before 2.19 trusts every file
    OPTIONS: dict[str, Any] = {}
else:
    OPTIONS = {"trusted_as_template": True}


class LookupModule(LookupBase):
    """Reads and resolves the entries; nothing else of the roles is templated."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[Any]:
        self.set_options(var_options=variables, direct=kwargs)
        path = _services.search_path(self._loader)
        found: dict[str, Any] = {}
        for role in [*_services.own(), *terms]:
            name = f"{_services.short(role)}_services"
            stated = self._loader.load_from_file(str(_services.statement(role, path)), **OPTIONS) or {}
            if not isinstance(stated.get(name), dict):
                raise AnsibleLookupError(f"{role}: {name} in vars/main.yml states no service")
            found[role] = self._templar.template(stated[name])
        return [found]
