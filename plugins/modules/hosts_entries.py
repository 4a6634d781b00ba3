#!/usr/bin/python
# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: hosts_entries
short_description: The deployment's block in the hosts file
version_added: 0.1.0
description:
  - Keeps one block of lines in the hosts file, between two marker lines that name the project. No other line
    is touched.
  - If a line outside the block already maps a name to the wanted address, that line is relied on and the name
    is left out of the block.
  - If a line outside the block maps a name to another address, the module fails and says which line, since
    the first mapping would win.
  - The file is replaced in one step. Where it is a mount point (as in containers) and cannot be replaced, it
    is rewritten in place.
author:
  - Cavern deployment team (@skasrc)
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
    description: Whether the block shall exist.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    support: full
    description: Tells whether the file would change, without writing.
  diff_mode:
    support: full
    description: Shows the file before and after.
"""

EXAMPLES = r"""
- name: The public name leads to this machine
  skasrc.cavern.hosts_entries:
    entries:
      - {address: 127.0.0.1, names: [haproxy.cadc.dao.nrc.ca]}

- name: Leave the hosts file as it was
  skasrc.cavern.hosts_entries:
    state: absent
"""

RETURN = r"""
block:
  description: The lines between the markers.
  returned: always
  type: list
  elements: str
  sample: ["127.0.0.1 haproxy.cadc.dao.nrc.ca"]
relied_on:
  description: Lines outside the block that already say what is wanted.
  returned: always
  type: list
  elements: dict
  sample: [{line: 7, name: haproxy.cadc.dao.nrc.ca, address: 127.0.0.1}]
"""

import ipaddress
import os
import re
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.skasrc.cavern.plugins.module_utils import _hosts

PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\Z")


def check_options(module: AnsibleModule) -> None:
    """Refuse what would damage the file or could not be resolved."""
    if not PROJECT.match(module.params["project"]):
        module.fail_json(msg=f"project: {module.params['project']!r} may hold letters, digits and '_.-' only")
    if module.params["state"] == "present" and not module.params["entries"]:
        module.fail_json(msg="entries: at least one is needed with state=present")
    seen: dict[str, str] = {}
    for entry in module.params["entries"]:
        try:
            ipaddress.ip_address(entry["address"])
        except ValueError:
            module.fail_json(msg=f"entries: {entry['address']!r} is not an IP address")
        if not entry["names"]:
            module.fail_json(msg=f"entries: {entry['address']} has no names")
        for name in entry["names"]:
            if not NAME.match(name):
                module.fail_json(msg=f"entries: {name!r} is not a host name")
            if seen.setdefault(name.lower(), entry["address"]) != entry["address"]:
                module.fail_json(
                    msg=f"entries: {name} has two addresses, {seen[name.lower()]} and {entry['address']}"
                )


def write(module: AnsibleModule, path: Path, text: str) -> None:
    """Replace the file, keeping owner and mode; rewrite it in place where it is a mount point."""
    descriptor, staged = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        stream.write(text)
    if not path.exists():
        os.chmod(staged, 0o644)
    module.atomic_move(staged, str(path), unsafe_writes=True)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": "/etc/hosts"},
            "project": {"type": "str", "default": "cavern"},
            "entries": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "address": {"type": "str", "required": True},
                    "names": {"type": "list", "elements": "str", "required": True},
                },
            },
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    check_options(module)
    # A link stays a link: its target is what is replaced.
    path = Path(module.params["path"]).resolve()
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            before = stream.read()
    except FileNotFoundError:
        before = ""
    except OSError as error:
        module.fail_json(msg=f"{path}: {error.strerror}")
    entries = [_hosts.Entry(e["address"], tuple(e["names"])) for e in module.params["entries"]]
    try:
        plan = _hosts.plan(
            before, module.params["project"], entries if module.params["state"] == "present" else []
        )
    except _hosts.HostsError as error:
        module.fail_json(msg=f"{path}: {error}")
    changed = plan.text != before
    if changed and not module.check_mode:
        write(module, path, plan.text)
    module.exit_json(
        changed=changed,
        block=plan.block,
        relied_on=[{"line": m.line, "name": m.name, "address": m.address} for m in plan.relied_on],
        diff={"before_header": str(path), "after_header": str(path), "before": before, "after": plan.text},
    )


if __name__ == "__main__":
    main()
