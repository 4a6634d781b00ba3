#!/usr/bin/python
# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: pod_stream
short_description: Run a program in a pod, with a file as its input or for its output
version_added: 1.1.0
description:
  - Runs a program in a pod of Kubernetes. Its standard input comes from a file, or its standard output goes to one.
  - Both sides compute the checksum of what passes. A file that is written has all of it or does not appear, and a
    program that reads gets the last of its input only if all of it is what was sent.
  - The image of the pod needs C(python3).
author:
  - Cavern deployment team (@skasrc)
attributes:
  check_mode:
    support: full
    description: The program is not run.
  diff_mode:
    support: none
    description: There is nothing to compare.
options:
  kubeconfig:
    description: File with the access to the cluster; the one that kubectl would take if omitted.
    type: path
  context:
    description: Context in that file; its current one if omitted.
    type: str
  namespace:
    description: Namespace of the pod.
    type: str
    required: true
  pod:
    description: Name of the pod, which has one container.
    type: str
    required: true
  command:
    description: The program and its arguments. No shell reads them.
    type: list
    elements: str
    required: true
  source:
    description: File that is the program's input. What it prints is dropped.
    type: path
  dest:
    description: File for the program's output, readable by its owner only. It is replaced.
    type: path
  accepted:
    description: Exit codes of the program that are no failure.
    type: list
    elements: int
    default: [0]
  timeout:
    description: Longest time in which nothing may arrive from the pod, in seconds.
    type: int
    default: 3600
requirements:
  - Python package kubernetes >= 32
"""

EXAMPLES = r"""
- name: Dump a database
  skasrc.cavern.pod_stream:
    namespace: cavern
    pod: srcnodedb-0
    command: [pg_dump, --format=custom, --dbname=cavern]
    dest: /srv/backups/cavern.dump
"""

RETURN = r"""
rc: {description: Exit code of the program., returned: when it was run, type: int, sample: 0}
stderr: {description: What the program wrote to its standard error., returned: when it was run, type: str, sample: ""}
bytes: {description: Size of the file., returned: when it was run, type: int, sample: 10240}
checksum: {description: SHA-256 of the file., returned: when it was run, type: str, sample: 3fa9…}
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes import connection


def run(given: dict[str, Any]) -> connection.Outcome:
    """Do what a task states. Raises StreamError and OSError."""
    pod = connection.Pod.reached(given["kubeconfig"], given["context"], given["namespace"], given["pod"])
    passed = connection.load if given["source"] else connection.save
    return passed(pod, given["command"], Path(given["source"] or given["dest"]), given["timeout"])


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "kubeconfig": {"type": "path"},
            "context": {"type": "str"},
            "namespace": {"type": "str", "required": True},
            "pod": {"type": "str", "required": True},
            "command": {"type": "list", "elements": "str", "required": True},
            "source": {"type": "path"},
            "dest": {"type": "path"},
            "accepted": {"type": "list", "elements": "int", "default": [0]},
            "timeout": {"type": "int", "default": 3600},
        },
        mutually_exclusive=[("source", "dest")],
        required_one_of=[("source", "dest")],
        supports_check_mode=True,
    )
    if connection.LIBRARY_ERROR is not None:
        module.fail_json(msg=missing_required_lib("kubernetes"), exception=connection.LIBRARY_ERROR)
    if module.check_mode:
        module.exit_json(changed=True)
    place = f"{module.params['namespace']}/{module.params['pod']}: {module.params['command'][0]}"
    try:
        found = run(module.params)
    except (connection.StreamError, OSError) as error:
        module.fail_json(msg=f"{place}: {error}")
    result: dict[str, Any] = {
        "rc": found.rc,
        "stderr": found.stderr,
        "bytes": found.bytes,
        "checksum": found.checksum,
    }
    if found.rc not in module.params["accepted"]:
        module.fail_json(msg=f"{place} ended with {found.rc}: {found.stderr}", **result)
    module.exit_json(changed=True, **result)


if __name__ == "__main__":
    main()
