#!/usr/bin/python
# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: settings
short_description: Validate the settings of a deployment
version_added: 1.0.0
author:
  - Cavern deployment team (@ska-telescope)
description:
  - Fails if an inventory or the command line sets a variable whose name has the prefix of a role of this collection but
    is not a setting, and suggests the setting that may be meant.
  - Fails if a list or dictionary is given as text, at any depth, or a list or dictionary in place of a single value.
    Ansible's own validation accepts such text as a list, but the roles would use it as text.
options:
  others:
    description: Names with such a prefix that belong to something else.
    type: list
    elements: str
    default: []
attributes:
  action:
    support: full
    description: Runs on the controller only.
  check_mode:
    support: full
    description: Nothing is ever changed.
  diff_mode:
    support: none
    description: Nothing is ever changed.
"""

EXAMPLES = r"""
- name: Refuse settings that would have no effect
  skasrc.cavern.settings:
    others: [images_of_another_collection]
"""

RETURN = r""" # """
