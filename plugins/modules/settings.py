#!/usr/bin/python
# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: settings
short_description: Refuse settings that no role has, or that are not what they must be
version_added: 0.1.0
author:
  - Cavern deployment team (@ska-telescope)
description:
  - Fails if an inventory or the command line gives a variable whose name begins like a setting of a role of this
    collection and is none, and tells which one may be meant.
  - Fails if a list or dictionary is given as text, at any depth, or a list or dictionary where a single value is
    wanted. Ansible's own check takes such text for a list, and the roles would use it as text.
options:
  others:
    description: Names that begin like a setting and belong to something else.
    type: list
    elements: str
    default: []
attributes:
  action:
    support: full
    description: Runs on the controller alone.
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
