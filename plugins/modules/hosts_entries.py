#!/usr/bin/python
# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: hosts_entries
short_description: Manage the entries of a deployment in the hosts file
version_added: 0.1.0
description:
  - Manages one block of lines in the hosts file, between two marker lines that name the project. No other line is
    changed.
  - If a line outside the block already maps a name to the wanted address, that line is relied on and the name
    is left out of the block.
  - If a line outside the block maps a name to another address, the module fails and says which line, since
    the first mapping would win.
  - The file is replaced atomically. Where it is a mount point (as in containers) and cannot be replaced, it is
    rewritten in place.
author:
  - Cavern deployment team (@skasrc)
extends_documentation_fragment: [skasrc.cavern.hosts_entries]
attributes:
  check_mode:
    support: full
    description: Reports whether the file would change, without writing.
  diff_mode:
    support: full
    description: Shows the file before and after.
"""

EXAMPLES = r"""
- name: Map the public name to this machine
  skasrc.cavern.hosts_entries:
    entries:
      - {address: 127.0.0.1, names: [haproxy.cadc.dao.nrc.ca]}

- name: Remove the entries
  skasrc.cavern.hosts_entries:
    state: absent
"""

RETURN = r"""
actions:
  description: Actions taken (in check mode, that would be taken), with reasons.
  returned: always
  type: list
  elements: dict
  sample: [{object: file, name: /etc/hosts, action: update, reasons: ["the block of cavern is missing"]}]
block:
  description: The lines between the markers.
  returned: always
  type: list
  elements: str
  sample: ["127.0.0.1 haproxy.cadc.dao.nrc.ca"]
relied_on:
  description: Lines outside the block that already map a name as wanted.
  returned: always
  type: list
  elements: dict
  sample: [{line: 7, name: haproxy.cadc.dao.nrc.ca, address: 127.0.0.1}]
"""

from ansible_collections.skasrc.cavern.plugins.module_utils import _hosts_file
from ansible_collections.skasrc.cavern.plugins.module_utils._phase import run_alone


def main() -> None:
    run_alone(_hosts_file.ARGUMENT_SPEC, _hosts_file.run)


if __name__ == "__main__":
    main()
