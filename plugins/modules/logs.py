#!/usr/bin/python
# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: logs
short_description: Show the logs of all services, merged by time
version_added: 0.1.0
description:
  - Reads the logs of containers of the local Docker Engine and merges their lines by time.
  - All services log the identifier of the staging task that they work on, so that O(contains) follows a task through
    the deployment.
author:
  - Cavern deployment team (@skasrc)
options:
  socket:
    description: Socket of Docker Engine.
    type: path
    default: /var/run/docker.sock
  containers:
    description: Containers whose logs are read.
    type: list
    elements: dict
    required: true
    suboptions:
      service:
        description: Name of the service, which its lines are labelled with.
        type: str
        required: true
      container:
        description: Name of the container.
        type: str
        required: true
  since:
    description: How far to look back, such as V(90s), V(15m), V(2h) or V(1d). Without it, to the beginning.
    type: str
  tail:
    description: Maximum number of lines; the last ones are returned.
    type: int
    default: 1000
  contains:
    description: Return only lines that contain this text.
    type: str
    default: ""
requirements:
  - docker (Python library)
attributes:
  check_mode:
    description: Reads in check mode too.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
"""

EXAMPLES = r"""
- name: Follow a staging task through the services
  skasrc.cavern.logs:
    containers:
      - {service: core, container: ska-src-local-data-preparer-core}
      - {service: cavern, container: src-cavern}
    contains: "{{ task.id }}"
    since: 1h
  register: merged
"""

RETURN = r"""
lines:
  description: The lines, the oldest first.
  type: list
  elements: dict
  returned: success
  contains:
    time:
      description: When Docker Engine received it, UTC.
      type: str
      sample: "2026-11-24T03:27:35.686120000Z"
    service:
      description: Service that wrote it.
      type: str
      sample: celery_worker
    text:
      description: The line itself.
      type: str
    summary:
      description: The line in readable form.
      type: str
      sample: INFO Staging 1 files for smoke, try 1
missing:
  description: Services whose container does not exist.
  type: list
  elements: str
  returned: success
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.skasrc.cavern.plugins.module_utils import _docker, _engine, _logs


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "socket": {"type": "path", "default": _engine.SOCKET},
            "containers": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "service": {"type": "str", "required": True},
                    "container": {"type": "str", "required": True},
                },
            },
            "since": {"type": "str"},
            "tail": {"type": "int", "default": 1000},
            "contains": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    if _docker.LIBRARY_ERROR:
        module.fail_json(msg=missing_required_lib("docker"), exception=_docker.LIBRARY_ERROR)
    options: dict[str, Any] = {"timestamps": True, "stdout": True, "stderr": True}
    if module.params["since"]:
        try:
            options["since"] = int(time.time()) - _logs.seconds(module.params["since"])
        except ValueError as error:
            module.fail_json(msg=f"since: {error}")
    if module.params["tail"] < 1:
        module.fail_json(msg="tail: give the number of lines to return, at least 1")

    logs, missing = [], []
    try:
        client = _docker.connect(module.params["socket"], timeout=60)
        for wanted in module.params["containers"]:
            try:
                output = client.logs(wanted["container"], **options)
            except _docker.NotFound:
                missing.append(wanted["service"])
                continue
            logs.append(_logs.parse(wanted["service"], output))
    except _docker.DockerException as error:
        module.fail_json(msg=f"Docker Engine: {error}")
    lines = _logs.interleave(logs, module.params["contains"])[-module.params["tail"] :]
    module.exit_json(
        changed=False,
        missing=missing,
        lines=[
            {
                "time": line.time,
                "service": line.service,
                "text": line.text,
                "summary": _logs.readable(line.text),
            }
            for line in lines
        ],
    )


if __name__ == "__main__":
    main()
