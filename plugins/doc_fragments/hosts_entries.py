# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Block in the hosts file: options of the module hosts_entries, and of converge below the option of that name."""

from __future__ import annotations

from ansible_collections.skasrc.cavern.plugins.plugin_utils._nested import nested_fragment


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  path:
    description: The hosts file.
    type: path
    default: /etc/hosts
  project:
    description: Name of the deployment in the marker lines; each deployment has its own block.
    type: str
    default: cavern
  entries:
    description: Addresses and their names.
    type: list
    elements: dict
    default: []
    suboptions:
      address:
        description: IPv4 or IPv6 address.
        type: str
        required: true
      names:
        description: Names of the address.
        type: list
        elements: str
        required: true
  state:
    description: Whether the block exists.
    type: str
    choices: [present, absent]
    default: present
"""

    # Annotated, since ansible-test takes what a plain assignment has for a text.
    NESTED: str = nested_fragment("hosts_entries", DOCUMENTATION)
