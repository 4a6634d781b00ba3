# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies on the target is read there: the machine that runs Ansible may be another, with other files and users."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
FILES = [*ROOT.glob("roles/**/*.yml"), *ROOT.glob("roles/**/*.j2"), *ROOT.glob("playbooks/**/*.yml")]
# Jinja's tests and Ansible's lookups that look at the disk of the machine that runs Ansible.
LOOKS = re.compile(
    r"\b(\w+)\s+is\s+(?:not\s+)?(?:ansible\.builtin\.)?(?:abs|directory|exists|file|link|link_exists|mount|same_file)\b"
    r"|lookup\('ansible\.builtin\.((?:csvfile|file|fileglob|first_found|ini|lines|pipe|template|unvault)'[^)]*)\)"
)
# The controller's own secrets, files of the collection, and its clock.
OWN = re.compile(
    r"secrets_file\Z|file', role_path|template', 'templates/|pipe', 'date |"
    # Asked only where the target is the controller.
    r"pipe', 'test -w '"
)


def test_only_the_controllers_own_files_are_looked_at() -> None:
    found = {
        (str(file.relative_to(ROOT)), match[1] or match[2])
        for file in FILES
        for match in LOOKS.finditer(file.read_text())
    }
    assert found
    assert [look for look in found if not OWN.search(look[1])] == []


def _tasks(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, list):
        for item in node:
            yield from _tasks(item)
    elif isinstance(node, dict):
        yield node
        for key in ("tasks", "pre_tasks", "post_tasks", "block", "rescue", "always"):
            yield from _tasks(node.get(key))


def test_nothing_but_the_secrets_is_copied_from_the_controller() -> None:
    sources = [
        task["ansible.builtin.copy"]["src"]
        for file in FILES
        if file.suffix == ".yml"
        for task in _tasks(yaml.safe_load(file.read_text()))
        if "src" in task.get("ansible.builtin.copy", {})
        and not task["ansible.builtin.copy"].get("remote_src")
    ]
    assert sources == ["{{ backup_secrets_file }}"]


def _defaults(directory: Path, connection: str) -> dict[str, str]:
    """Return where a deployment is by default, of which the inventory says how its host is reached and nothing else."""
    names = ("deployment_project_dir", "deployment_state_dir", "secrets_file")
    roles = ("deployment/defaults", "deployment/vars", "secrets/defaults")
    play = {
        "hosts": "target",
        "gather_facts": False,
        "vars_files": [f"{ROOT}/roles/{role}/main.yml" for role in roles],
        "tasks": [
            {
                "ansible.builtin.debug": {
                    "msg": f"{{{{ {{ {', '.join(f'{n!r}: {n}' for n in names)} }} | to_json }}}}"
                }
            }
        ],
    }
    inventory = directory / "inventory/hosts.yml"
    inventory.parent.mkdir()
    inventory.write_text(f"all: {{hosts: {{target: {{ansible_connection: {connection}}}}}}}")
    (directory / "play.yml").write_text(yaml.safe_dump([play]))
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", inventory, "play.yml"],
        cwd=directory,
        env=os.environ
        | {
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_STDOUT_CALLBACK": "skasrc.cavern.messages",
            "PWD": "/home/ada/site",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_on_this_machine_everything_lies_in_the_current_directory(tmp_path: Path) -> None:
    assert _defaults(tmp_path, "local") == {
        "deployment_project_dir": "/home/ada/site",
        "deployment_state_dir": "/home/ada/site/state",
        "secrets_file": "/home/ada/site/state/secrets.yml",
    }


def test_on_another_machine_the_secrets_stay_with_who_deploys(tmp_path: Path) -> None:
    assert _defaults(tmp_path, "ssh") == {
        "deployment_project_dir": "/srv/cavern",
        "deployment_state_dir": "/srv/cavern/state",
        "secrets_file": f"{tmp_path}/inventory/.cavern/secrets.yml",
    }
