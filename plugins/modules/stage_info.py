#!/usr/bin/python
# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: stage_info
short_description: List staging tasks and their files
version_added: 0.1.0
description:
  - Returns one task of prepare-data with its files, or the user's tasks, the newest first.
author:
  - Cavern deployment team (@skasrc)
extends_documentation_fragment:
  - skasrc.cavern.connection
  - skasrc.cavern.connection.user
  - skasrc.cavern.staging
  - skasrc.cavern.attributes.read_only
options:
  task_id:
    description: The task to return. All tasks of the user if omitted.
    type: str
  states:
    description: Only tasks in these states. Mutually exclusive with O(task_id).
    type: list
    elements: str
    choices: [QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED, LOST]
  limit:
    description: Maximum number of tasks.
    type: int
    default: 100
  files:
    description: Whether to return the files of O(task_id).
    type: bool
    default: true
  file_state:
    description: Only files in this state.
    type: str
    choices: [PENDING, STAGING_FROM_TAPE, STAGED, PRESENT, FAILED, CANCELLED, RELEASED]
"""

EXAMPLES = r"""
- name: Wait for a task that was submitted before
  skasrc.cavern.stage_info:
    url: https://haproxy.cadc.dao.nrc.ca
    token: "{{ ada.token }}"
    task_id: "{{ staging.task_id }}"
    file_state: FAILED
  register: found
  until: found.tasks[0].state not in ['QUEUED', 'RUNNING']
  retries: 100
  delay: 3

- name: List the tasks in progress
  skasrc.cavern.stage_info:
    url: https://haproxy.cadc.dao.nrc.ca
    token: "{{ ada.token }}"
    states: [QUEUED, RUNNING]
"""

RETURN = r"""
tasks:
  description: The tasks as the service reports them. An unknown O(task_id) gives an empty list.
  returned: success
  type: list
  elements: dict
  sample:
    - {id: 6f3b2c8e-5f2b-4f0e-9a55-0c5f6f3d4c21, state: RUNNING, info: null, files: 2, files_done: 1,
       files_failed: 0, bytes_done: 4096}
files:
  description: The task's files.
  returned: with O(task_id) and O(files=true), if there is such a task
  type: list
  elements: dict
  sample:
    - {number: 1, did: "testing:b", state: FAILED, fault: SourceNotFound, detail: "404 from the storage element"}
counts:
  description: Number of the returned files by state.
  returned: with O(task_id) and O(files=true), if there is such a task
  type: dict
  sample: {FAILED: 1}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.skasrc.cavern.plugins.module_utils import _staging


def query(params: dict[str, Any], client: Any) -> dict[str, Any]:
    """Return the tasks that the options select."""
    if params["task_id"] is None:
        return {
            "tasks": [
                dict(task.raw) for task in client.tasks(states=params["states"] or (), limit=params["limit"])
            ]
        }
    try:
        task = client.task(params["task_id"])
    except _staging.NotFound:
        return {"tasks": []}
    found: dict[str, Any] = {"tasks": [dict(task.raw)]}
    if params["files"]:
        files = _staging.file_results(client.files(task.id, state=params["file_state"]))
        summary = _staging.summary(task, files)
        found |= {"files": files, "counts": summary["counts"]}
    return found


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_staging.STAGING_SPEC,
            "task_id": {"type": "str"},
            "states": {
                "type": "list",
                "elements": "str",
                "choices": ["QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED", "LOST"],
            },
            "limit": {"type": "int", "default": 100},
            "files": {"type": "bool", "default": True},
            "file_state": {
                "type": "str",
                "choices": [
                    "PENDING",
                    "STAGING_FROM_TAPE",
                    "STAGED",
                    "PRESENT",
                    "FAILED",
                    "CANCELLED",
                    "RELEASED",
                ],
            },
        },
        supports_check_mode=True,
        required_one_of=_staging.STAGING_RULES["required_one_of"],
        mutually_exclusive=[*_staging.STAGING_RULES["mutually_exclusive"], ("task_id", "states")],
    )
    if module.params["limit"] < 1:
        module.fail_json(msg=f"limit: {module.params['limit']} is no number of tasks from 1 on")
    with _staging.connect(module) as client:
        try:
            found = query(module.params, client)
        except _staging.PrepareDataError as error:
            module.fail_json(msg=str(error))
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
