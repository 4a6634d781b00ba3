# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = """
name: render
author: The Cavern deployment team (@ska-telescope)
version_added: 1.0.0
short_description: Render a template of a role
description:
  - Renders a template of any role of the collection, or of one that provides more services, from any play or role.
  - Unlike P(ansible.builtin.template#lookup) it does not copy all variables first, which for the files of a whole
    deployment takes many times as long as the rendering.
options:
  _terms:
    description: Paths that begin with the role, such as V(haproxy/templates/haproxy.cfg.j2).
    type: list
    elements: str
    required: true
  template_vars:
    description: Variables that the template has besides those of the task.
    type: dict
    default: {}
seealso:
  - plugin: ansible.builtin.template
    plugin_type: lookup
"""

EXAMPLES = """
- name: Show the configuration of HAProxy
  ansible.builtin.debug:
    msg: "{{ lookup('skasrc.cavern.render', 'haproxy/templates/haproxy.cfg.j2') }}"
"""

RETURN = """
_raw:
  description: The texts, in the order of the paths.
  type: list
  elements: str
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ansible.template
from ansible.errors import AnsibleError, AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.skasrc.cavern.plugins.plugin_utils import _services

OPTIONS: dict[str, Any] = {"escape_backslashes": False}
# ansible-core before 2.19 trusts every text, and takes one that looks like data for data.
TRUST: Callable[[str], str] = getattr(ansible.template, "trust_as_template", str)
if TRUST is str:
    OPTIONS["convert_data"] = False

ROLES = Path(__file__).resolve().parents[2] / "roles"


class LookupModule(LookupBase):
    """Render with the variables as they are; they are copied only to add to them."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        self.set_options(var_options=variables, direct=kwargs)
        more = self.get_option("template_vars")
        templar: Any = self._templar
        if more:
            templar = templar.copy_with_new_env(available_variables={**templar.available_variables, **more})
        return [self._render(templar, term) for term in terms]

    def _render(self, templar: Any, term: str) -> str:
        role, _slash, path = term.partition("/")
        try:
            file = ROLES / term
            if not (ROLES / role).is_dir() and path:
                file = _services.directory(role, _services.search_path(self._loader)) / path
            text = file.read_text(encoding="utf-8")
        except OSError as exc:
            raise AnsibleLookupError(f"{term}: cannot be read below {ROLES}: {exc.strerror}") from exc
        try:
            rendered: str = templar.template(TRUST(text), **OPTIONS)
        except AnsibleError as exc:
            raise AnsibleLookupError(f"The template {term} cannot be rendered") from exc
        return rendered
