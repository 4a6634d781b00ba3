# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Directory that a deployment on this Engine belongs to. Private to the collection.

An empty volume records it in a label, since a volume outlives containers and network, and, unlike those that hold
data, can be made anew when another directory takes the deployment over. Deployments from before there was such a
volume are told by where their containers' configuration is mounted from.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.skasrc.cavern.plugins.module_utils import _engine
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.labels import LABEL, PROJECT
from ansible_collections.skasrc.cavern.plugins.module_utils._phase import PhaseError, Result

DIRECTORY = f"{LABEL}.directory"

ARGUMENT_SPEC: dict[str, Any] = {
    "project": {"type": "str", "required": True},
    "directory": {"type": "path", "required": True},
    "config_dir": {"type": "path", "required": True},
    "data_dir": {"type": "path"},
    "takeover": {"type": "bool", "default": False},
    "socket": {"type": "path", "default": _engine.SOCKET},
}


@dataclass(frozen=True)
class Found:
    """Traces of a project on the Engine."""

    recorded: str | None
    """Directory in the label of the volume that records it."""
    configured: frozenset[str]
    """Directories from which containers have their configuration."""
    volumes: tuple[str, ...]
    """Volumes with data."""


def volume_name(project: str) -> str:
    """Return the name of the volume that records the directory of a project."""
    return f"{project}-owner"


def _get(socket: str, target: str, project: str) -> Any:
    filters = quote(json.dumps({"label": [f"{PROJECT}={project}"]}))
    answer = _engine.request(socket, "GET", f"{target}filters={filters}")
    if answer is None:
        return None
    status, document = answer
    if status != 200:
        raise PhaseError(f"Docker Engine answers {status} to {target}: {document}")
    return document


def find(socket: str, project: str) -> Found | None:
    """Return the traces of a project on the Engine, None if no Engine answers."""
    listed = _get(socket, "/volumes?", project)
    containers = _get(socket, "/containers/json?all=1&", project)
    if listed is None or containers is None:
        return None
    name = volume_name(project)
    volumes = {volume["Name"]: volume.get("Labels") or {} for volume in listed["Volumes"] or []}
    mounts = [mount for container in containers for mount in container.get("Mounts") or []]
    return Found(
        recorded=volumes.get(name, {}).get(DIRECTORY),
        configured=frozenset(
            os.path.realpath(os.path.dirname(mount["Source"]))
            for mount in mounts
            if mount.get("Type") == "bind" and mount.get("Destination") == "/config"
        ),
        volumes=tuple(sorted(set(volumes) - {name})),
    )


def _others(found: Found, options: dict[str, Any]) -> str | None:
    """Describe the directory that a deployment belongs to, if it is not that of the *options*."""
    if found.recorded is not None:
        return None if found.recorded == os.path.realpath(options["directory"]) else _place(found.recorded)
    if found.configured:
        if os.path.realpath(options["config_dir"]) in found.configured:
            return None
        return " and ".join(_place(path.removesuffix("/state/config")) for path in sorted(found.configured))
    traces = [Path(options["config_dir"])]
    if options["data_dir"]:
        traces.append(Path(options["data_dir"], "cavern_data/cavern"))
    if not found.volumes or any(trace.exists() for trace in traces):
        return None
    return f"another directory, which left the volumes {', '.join(found.volumes)} without its name"


def _place(directory: str) -> str:
    # From within the engine's machine, no directory of who deploys is to be seen.
    there = _engine.PLACE in os.environ or Path(directory).exists()
    return directory if there else f"{directory}, which no longer exists"


def check(options: dict[str, Any]) -> Found | None:
    """Find the traces of the project. Raises PhaseError if it belongs to another directory."""
    try:
        found = find(options["socket"], options["project"])
    except _engine.EngineError as error:
        raise PhaseError(str(error)) from error
    other = None if found is None or options["takeover"] else _others(found, options)
    if other is not None:
        raise PhaseError(
            f"the deployment {options['project']} on this engine belongs to {other}; this run is that of "
            f"{options['directory']}. To deploy beside it, give this one another deployment_project, with the names "
            "and addresses that a second site needs (docs/operator.md, Another site). To take it over with its "
            "volumes, set deployment_takeover to true for this run"
        )
    return found


def claim(options: dict[str, Any], check_mode: bool) -> list[dict[str, Any]]:
    """Record the directory that the project belongs to from now on, and return the actions."""
    found = check(options)
    directory = os.path.realpath(options["directory"])
    if found is not None and found.recorded == directory:
        return []
    name = volume_name(options["project"])
    action = {"object": "volume", "name": name, "action": "create", "reasons": ["missing"]}
    if found is not None and found.recorded is not None:
        action |= {"action": "recreate", "reasons": [f"taken over from {found.recorded}"]}
    if not check_mode:
        if action["action"] == "recreate":
            _engine.request(options["socket"], "DELETE", f"/volumes/{quote(name, safe='')}")
        labels = {PROJECT: options["project"], DIRECTORY: directory}
        _engine.request(options["socket"], "POST", "/volumes/create", {"Name": name, "Labels": labels})
        # Where two runs want to make it at once, the first one's stays.
        found = check(options)
        if found is None or found.recorded != directory:
            raise PhaseError(
                f"the volume {name}, which is to record the deployment's directory, cannot be made"
            )
    return [action]


def run(module: AnsibleModule, options: dict[str, Any]) -> Result:
    """Refuse a deployment that belongs to another directory."""
    found = check(options)
    return {
        "changed": False,
        "actions": [],
        "diff": [],
        "directory": None if found is None else found.recorded,
    }
