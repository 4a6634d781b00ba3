# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan and apply the change of a service's container. Private to the collection."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils import _docker, _files
from ansible_collections.skasrc.cavern.plugins.module_utils._converge import options
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.engine import Engine
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.errors import ConvergeError
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.service import Service

Document = dict[str, Any]


def plan(service: Service, image: Document | None, renewed: frozenset[str], because: list[str]) -> None:
    """Decide on the service's action, and why.

    *image* is the inspected image that it is to run, *renewed* are images that an earlier phase would replace, and
    *because* are reasons to recreate the container whatever it is like.
    """
    inspect = service.inspect
    if inspect is None:
        service.action, service.reasons = "create", ["missing"]
        return
    service.reasons = [
        *because,
        *_image_reasons(service, inspect, image, renewed),
        *_option_reasons(service, inspect, image),
        *_file_reasons(service, inspect),
    ]
    if service.reasons:
        service.action = "recreate"
    else:
        service.action, service.reasons = _lesser_action(service, inspect)


def _image_reasons(
    service: Service, inspect: Document, image: Document | None, renewed: frozenset[str]
) -> list[str]:
    before = inspect["Image"][7:19]
    if image is not None and image["Id"] != inspect["Image"]:
        return [f"image: {before} -> {image['Id'][7:19]}"]
    return [f"image: {before} -> a new one"] if service.spec["image"] in renewed else []


def _option_reasons(service: Service, inspect: Document, image: Document | None) -> list[str]:
    same = image is not None and image["Id"] == inspect["Image"]
    found = options.active(inspect, service.options, image if same else None)
    return options.reasons(options.differences(service.options, found))


def _file_reasons(service: Service, inspect: Document) -> list[str]:
    changed = service.files.effects.get("recreate")
    if changed:
        return [f"files: {', '.join(changed)}"]
    created = _time(inspect["Created"])
    newer = service.files.newest.get("recreate", 0.0) > created + 1
    return ["files are newer than the container"] if newer else []


def _lesser_action(service: Service, inspect: Document) -> tuple[str | None, list[str]]:
    """Return what is to be done to a container that need not be recreated, and why."""
    state, effects = inspect["State"], service.files.effects
    if not state.get("Running"):
        return "start", [state.get("Status") or "stopped"]
    if state.get("Paused") and not {"restart", "reload"} & set(effects):
        return "unpause", ["paused"]
    if "restart" in effects:
        return "restart", [f"files: {', '.join(effects['restart'])}"]
    if service.files.newest.get("restart", 0.0) > _time(state["StartedAt"]) + 1:
        # An earlier run was interrupted between writing and restarting.
        return "restart", ["files are newer than the process"]
    if "reload" in effects:
        return "reload", [f"files: {', '.join(effects['reload'])}"]
    return None, []


def _time(text: str) -> float:
    """Return a time of the Engine (RFC 3339, UTC, up to nine digits after the second) as epoch in s."""
    whole = datetime.fromisoformat(text[:19] + "+00:00").timestamp()
    return whole + float("0." + (text[20:].rstrip("Z") or "0"))


def apply(service: Service, engine: Engine) -> None:
    """Carry out the service's action. Raises ConvergeError, DockerException."""
    client, name = engine.client, service.container
    if service.action in ("create", "recreate"):
        _create(service, engine)
    elif service.action == "start":
        client.start(name)
    elif service.action == "unpause":
        client.unpause(name)
    elif service.action == "restart":
        _unpause(service, engine)
        restart(service, engine, name)
    elif service.action == "reload":
        _reload(service, engine)


def restart(service: Service, engine: Engine, container: str) -> None:
    """Restart a container of the service, which has as much time to stop as the service wants."""
    engine.client.restart(container, timeout=service.options.get("stop_timeout", 10))


def _create(service: Service, engine: Engine) -> None:
    if service.action == "recreate" and service.inspect is not None:
        engine.remove(service.inspect["Id"])
    for change in service.owner_changes:
        _files.hand_over(change.path, change.former, change.owner)
    body = options.creation(service.target, service.options)
    engine.client.create_container_from_config(body, service.container)
    engine.client.start(service.container)


def _unpause(service: Service, engine: Engine) -> None:
    """Unpause the container if it is paused, so that it can take a signal."""
    if service.state.get("Paused"):
        engine.client.unpause(service.container)


def _reload(service: Service, engine: Engine) -> None:
    _unpause(service, engine)
    how = service.spec.get("reload") or {}
    if how.get("signal"):
        engine.client.kill(service.container, how["signal"])
    elif how.get("command"):
        code, output = _docker.execute(engine.client, service.container, how["command"])
        if code:
            raise ConvergeError(f"reload ended with {code}: {output}")
    else:
        engine.client.restart(service.container)
