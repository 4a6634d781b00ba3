#!/usr/bin/python
# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: stage
short_description: Stage files of a storage element into a user's area
version_added: 0.1.0
description:
  - Submits a task to prepare-data, waits for its end, and returns the outcome of every file.
  - Files are compared by content. Those that are in place already, with the same size and checksum, are left alone,
    and if that holds for all of them the module reports no change. A request is not submitted again while it is in
    progress, whatever the order of its files.
author:
  - Cavern deployment team (@skasrc)
extends_documentation_fragment:
  - skasrc.cavern.connection
  - skasrc.cavern.connection.user
  - skasrc.cavern.staging
options:
  items:
    description: The files.
    type: list
    elements: dict
    required: true
    suboptions:
      did:
        description: Data identifier, C(scope:name).
        type: str
        required: true
      path:
        description: Path below the root of the storage element. Derived by O(algorithm) if omitted.
        type: str
      destination:
        description: Directory in the user's area, if not the module's O(destination).
        type: str
      size:
        description: Expected size in bytes.
        type: int
      md5:
        description: Expected MD5, 32 hexadecimal digits.
        type: str
      adler32:
        description: Expected Adler-32, 8 hexadecimal digits.
        type: str
  destination:
    description: Directory, relative to the user's area, that the files go to.
    type: str
    default: .
  algorithm:
    description: Rucio's algorithm by which the storage element lays out its files.
    type: str
    choices: [hash, identity]
    default: hash
  rse:
    description:
      - Storage element that has the files, or several, separated by commas, in the order of preference.
      - The site's by default.
    type: str
  approach:
    description: Staging approach, if not the site's default.
    type: str
  callback:
    description: URL that is notified when the task ends.
    type: str
  lifetime:
    description: Seconds that the staged copies are kept for. Indefinitely if omitted.
    type: int
  idempotency_key:
    description: A request with the same key is the same task, even after its end.
    type: str
  wait:
    description:
      - Whether to wait for the task's end, and to fail unless every file is staged then.
      - With V(false), the module reports a change if there was no such task in progress.
    type: bool
    default: true
  timeout:
    description: Longest wait for the task's end, in seconds. The task continues after it.
    type: float
    default: 600
attributes:
  check_mode:
    support: full
    description: Requests an estimate, which also finds malformed items, missing files and an insufficient quota.
  diff_mode:
    support: none
    description: The files' states are in the result.
"""

EXAMPLES = r"""
- name: Stage the test file
  skasrc.cavern.stage:
    url: https://haproxy.cadc.dao.nrc.ca
    ca_path: state/certs/ca.pem
    token: "{{ ada.token }}"
    destination: ./testing
    items:
      - did: testing:prepare_data_test.txt

- name: Submit a list of DIDs without waiting
  skasrc.cavern.stage:
    url: https://haproxy.cadc.dao.nrc.ca
    token_file: ~/.token
    items:
      - did: testing:first.fits
      - did: testing:second.fits
        path: bands/second.fits
    wait: false
  register: staging
"""

RETURN = r"""
task_id:
  description: The task's id. Null in check mode.
  returned: if the task was submitted, and in check mode
  type: str
  sample: 6f3b2c8e-5f2b-4f0e-9a55-0c5f6f3d4c21
state:
  description: State of the task, C(QUEUED), C(RUNNING), C(SUCCEEDED), C(FAILED), C(CANCELLED) or C(LOST).
  returned: if the task was submitted
  type: str
  sample: SUCCEEDED
task:
  description: The task as the service reports it.
  returned: if the task was submitted
  type: dict
  sample: {state: SUCCEEDED, files: 1, files_done: 1, files_failed: 0, bytes_done: 4096}
files:
  description: Outcome of each file, in the order of O(items).
  returned: with O(wait=true)
  type: list
  elements: dict
  sample:
    - {number: 0, did: "testing:prepare_data_test.txt", path: testing/84/1c/prepare_data_test.txt,
       target: "vos://opencadc.org~cavern/home/ada/testing/prepare_data_test.txt", state: STAGED, bytes: 4096,
       md5: 0cc175b9c0f1b6a831c399e269772661, adler32: 00620062, rse: default, fault: null, detail: null, attempts: 1}
counts:
  description: Number of files by state.
  returned: with O(wait=true)
  type: dict
  sample: {STAGED: 1}
estimate:
  description: Estimated cost of the request.
  returned: in check mode
  type: dict
  sample: {files: 1, bytes: 4096, present: 0, missing: [], quota_left: 1000000, seconds: 0.4}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.skasrc.cavern.plugins.module_utils import _staging


def check_options(module: AnsibleModule) -> None:
    """Validate the options that need no service."""
    params = module.params
    if not params["items"]:
        module.fail_json(msg="items: at least one file is needed")
    for option in ("lifetime", "timeout"):
        if params[option] is not None and params[option] <= 0:
            module.fail_json(msg=f"{option}: {params[option]:g} is not a number of seconds greater than 0")


def read_items(params: dict[str, Any]) -> list[Any]:
    """Return the items as the client takes them. Raises its InvalidItem."""
    items = []
    for entry in params["items"]:
        known = {name: value for name, value in entry.items() if value is not None}
        items.append(_staging.library.Item.of(known.pop("did"), algorithm=params["algorithm"], **known))
    return items


def predict(module: AnsibleModule, client: Any, items: list[Any]) -> dict[str, Any]:
    """Return the result that a run would have."""
    params = module.params
    estimate = client.estimate(
        items, destination=params["destination"], approach=params["approach"], rse=params["rse"]
    )
    result = {
        "changed": estimate.present < estimate.files,
        "task_id": None,
        "estimate": dict(estimate.raw),
    }
    if estimate.missing:
        module.fail_json(msg=f"not on the storage element: {', '.join(estimate.missing[:20])}", **result)
    if estimate.fits is False:
        module.fail_json(
            msg=f"{estimate.bytes} bytes are to be staged, but there is room for {estimate.quota_left} only",
            **result,
        )
    return result


def stage(module: AnsibleModule, client: Any, items: list[Any]) -> dict[str, Any]:
    """Submit the task, wait for its end if asked to, and return the result."""
    params = module.params
    task = client.submit(
        items,
        destination=params["destination"],
        approach=params["approach"],
        rse=params["rse"],
        callback=params["callback"],
        lifetime=params["lifetime"],
        idempotency_key=params["idempotency_key"],
    )
    if not params["wait"]:
        return {"changed": not task.existing, **_staging.summary(task, None)}
    try:
        task = client.wait(task.id, timeout=params["timeout"])
    except _staging.PrepareDataError as error:
        module.fail_json(msg=str(error), changed=True, task_id=task.id)
    files = _staging.file_results(client.files(task.id))
    staged = any(file["state"] == "STAGED" for file in files)
    result = {"changed": staged, **_staging.summary(task, files)}
    if not task.succeeded:
        reasons = _staging.failures(files)
        module.fail_json(
            msg=f"task {task.id} {task.state}: {task.info or 'no reason given'}{': ' + reasons if reasons else ''}",
            **result,
        )
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_staging.STAGING_SPEC,
            "items": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "did": {"type": "str", "required": True},
                    "path": {"type": "str"},
                    "destination": {"type": "str"},
                    "size": {"type": "int"},
                    "md5": {"type": "str"},
                    "adler32": {"type": "str"},
                },
            },
            "destination": {"type": "str", "default": "."},
            "algorithm": {"type": "str", "choices": ["hash", "identity"], "default": "hash"},
            "rse": {"type": "str"},
            "approach": {"type": "str"},
            "callback": {"type": "str"},
            "lifetime": {"type": "int"},
            "idempotency_key": {"type": "str", "no_log": False},
            "wait": {"type": "bool", "default": True},
            "timeout": {"type": "float", "default": 600},
        },
        supports_check_mode=True,
        **_staging.STAGING_RULES,
    )
    check_options(module)
    with _staging.connect(module) as client:
        try:
            items = read_items(module.params)
            result = predict(module, client, items) if module.check_mode else stage(module, client, items)
        except _staging.PrepareDataError as error:
            module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
