# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read, check and replace the deployment's block in the hosts file. Private to the collection."""

from __future__ import annotations

import ipaddress
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.skasrc.cavern.plugins.module_utils import _hosts
from ansible_collections.skasrc.cavern.plugins.module_utils._phase import PhaseError, Result

PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
ARGUMENT_SPEC: dict[str, Any] = {
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
}

NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\Z")


def check_options(options: dict[str, Any]) -> None:
    """Refuse entries that would damage the file or could not be resolved."""
    if not PROJECT.match(options["project"]):
        raise PhaseError(f"project: {options['project']!r} may hold letters, digits and '_.-' only")
    if options["state"] == "present" and not options["entries"]:
        raise PhaseError("entries: at least one is needed with state=present")
    seen: dict[str, str] = {}
    for entry in options["entries"]:
        try:
            ipaddress.ip_address(entry["address"])
        except ValueError as error:
            raise PhaseError(f"entries: {entry['address']!r} is not an IP address") from error
        if not entry["names"]:
            raise PhaseError(f"entries: {entry['address']} has no names")
        for name in entry["names"]:
            if not NAME.match(name):
                raise PhaseError(f"entries: {name!r} is not a host name")
            if seen.setdefault(name.lower(), entry["address"]) != entry["address"]:
                raise PhaseError(
                    f"entries: {name} has two addresses, {seen[name.lower()]} and {entry['address']}"
                )


def write(module: AnsibleModule, path: Path, text: str) -> None:
    """Replace the file, keeping owner and mode; rewrite it in place where it is a mount point."""
    descriptor, staged = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        stream.write(text)
    if not path.exists():
        os.chmod(staged, 0o644)
    module.atomic_move(staged, str(path), unsafe_writes=True)


def run(module: AnsibleModule, options: dict[str, Any]) -> Result:
    """Bring the block to the wanted state."""
    check_options(options)
    # A link stays a link: its target is what is replaced.
    path = Path(options["path"]).resolve()
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            before = stream.read()
    except FileNotFoundError:
        before = ""
    except OSError as error:
        raise PhaseError(f"{path}: {error.strerror}") from error
    entries = [_hosts.Entry(e["address"], tuple(e["names"])) for e in options["entries"]]
    present = options["state"] == "present"
    try:
        plan = _hosts.plan(before, options["project"], entries if present else [])
    except _hosts.HostsError as error:
        raise PhaseError(f"{path}: {error}") from error
    facts = {
        "block": plan.block,
        "relied_on": [{"line": m.line, "name": m.name, "address": m.address} for m in plan.relied_on],
    }
    if plan.text == before:
        return {"changed": False, "actions": [], "diff": [], **facts}
    if not module.check_mode:
        write(module, path, plan.text)
    action = {
        "object": "file",
        "name": str(path),
        "action": "update",
        "reasons": [_reason(before, plan, options)],
    }
    diff = {"before_header": str(path), "after_header": str(path), "before": before, "after": plan.text}
    return {"changed": True, "actions": [action], "diff": [diff], **facts}


def _reason(before: str, plan: _hosts.Plan, options: dict[str, Any]) -> str:
    if options["state"] == "absent":
        return "state is absent"
    if _hosts.begin(options["project"]) not in before.splitlines():
        return f"the block of {options['project']} is missing"
    return (
        f"the block of {options['project']} differs"
        if plan.block
        else "lines outside the block say it already"
    )
