#!/usr/bin/python
# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: containers_info
short_description: Report state, uptime, restarts and memory of a deployment's containers
version_added: 1.0.0
description:
  - Returns what Docker Engine knows of the containers of a project, by the service that they run.
author:
  - Cavern deployment team (@skasrc)
extends_documentation_fragment: [skasrc.cavern.attributes.read_only]
options:
  project:
    description: Project whose containers are reported, as M(skasrc.cavern.converge) labels them.
    type: str
    required: true
  socket:
    description: Unix socket of the Docker Engine.
    type: path
    default: /var/run/docker.sock
requirements:
  - Python package docker >= 5
"""

EXAMPLES = r"""
- name: Show what the containers use
  skasrc.cavern.containers_info:
    project: cavern
  register: found
"""

RETURN = r"""
containers:
  description: The containers by service.
  returned: success
  type: dict
  contains:
    container: {description: Name., type: str, sample: src-cavern}
    state: {description: State as Docker reports it., type: str, sample: running}
    uptime: {description: Seconds since it started. Null unless it runs., type: int, sample: 3600}
    restarts: {description: How often Docker restarted it by itself., type: int, sample: 0}
    memory:
      description: Bytes in use without the file system's cache. Null unless it runs.
      type: int
      sample: 104857600
"""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.skasrc.cavern.plugins.module_utils import _docker, _engine
from ansible_collections.skasrc.cavern.plugins.module_utils._converge import labels

THREADS = 16


def memory(stats: dict[str, Any]) -> int | None:
    """Return the bytes that a container holds besides cached files, None if it has ended."""
    used = stats.get("memory_stats") or {}
    if "usage" not in used:
        return None
    details = used.get("stats") or {}
    # Control groups of version 1 and 2.
    cached = details.get("total_inactive_file", details.get("inactive_file", 0))
    return int(used["usage"]) - int(cached)


def describe(socket: str, name: str, now: datetime) -> dict[str, Any]:
    """Return the result for one container. Raises DockerException."""
    client = _docker.connect(socket, 30)
    try:
        found = client.inspect_container(name)
        state = found["State"]
        stats = _docker.sample(client, name) if state["Running"] else {}
    finally:
        client.close()
    # Nanoseconds are more than Python reads.
    started = datetime.fromisoformat(f"{state['StartedAt'][:19]}+00:00")
    return {
        "container": found["Name"].lstrip("/"),
        "state": state["Status"],
        "uptime": max(0, int((now - started).total_seconds())) if state["Running"] else None,
        "restarts": found["RestartCount"],
        "memory": memory(stats),
    }


def look(socket: str, project: str) -> dict[str, Any]:
    """Return the containers of a project by service. Raises DockerException."""
    client = _docker.connect(socket, 30)
    try:
        listed = client.containers(all=True, filters={"label": f"{labels.PROJECT}={project}"})
    finally:
        client.close()
    keys = [found["Labels"].get(labels.SERVICE, found["Id"]) for found in listed]
    now = datetime.now(UTC)

    def one(found: dict[str, Any]) -> dict[str, Any] | None:
        # One that went meanwhile is none.
        described: dict[str, Any] | None = _docker.find(describe, socket, found["Id"], now)
        return described

    with ThreadPoolExecutor(max_workers=THREADS) as pool:
        entries = list(pool.map(one, listed))
    return {key: entry for key, entry in zip(keys, entries, strict=True) if entry is not None}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "str", "required": True},
            "socket": {"type": "path", "default": _engine.SOCKET},
        },
        supports_check_mode=True,
    )
    if _docker.LIBRARY_ERROR is not None:
        module.fail_json(msg=missing_required_lib("docker"), exception=_docker.LIBRARY_ERROR)
    try:
        containers = look(module.params["socket"], module.params["project"])
    except _docker.DockerException as error:
        module.fail_json(msg=f"Docker Engine: {_docker.explain(error)}")
    module.exit_json(changed=False, containers=containers)


if __name__ == "__main__":
    main()
