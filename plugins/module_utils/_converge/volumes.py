# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes of a service: created, given to the service's user, removed. Private to the collection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils._converge import labels
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.engine import Engine
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.errors import ConvergeError
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.report import Report
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.service import OwnerChange, Service


def plan(service: Service, engine: Engine, check_mode: bool) -> None:
    """Find missing volumes, and those that belong to a former user. Raises ConvergeError for a missing bind source."""
    for mount in service.spec.get("mounts") or []:
        if mount["type"] == "volume":
            found = engine.volume(mount["source"])
            if found is None:
                service.volumes.append(mount["source"])
            else:
                _plan_owner(service, mount, Path(found["Mountpoint"]))
        if mount["type"] == "bind" and not check_mode and not Path(mount["source"]).exists():
            raise ConvergeError(
                f"{service.name}: {mount['source']} does not exist; name it in host_directories, or make it"
            )


def _plan_owner(service: Service, mount: dict[str, Any], path: Path) -> None:
    try:
        former = path.stat().st_uid
    except OSError:
        # The Engine keeps its volumes elsewhere, or this is not root; the service itself will fail if it matters.
        return
    if former == mount["owner"] or former not in mount["former_owners"]:
        return
    service.owner_changes.append(OwnerChange(mount["source"], path, former, mount["owner"]))
    if service.action not in ("create", "recreate"):
        service.action, service.reasons = "recreate", [f"the volume {mount['source']} changes hands"]


def create(service: Service, engine: Engine) -> None:
    """Create the missing volumes of a service."""
    for name in service.volumes:
        engine.client.create_volume(
            name, labels={labels.PROJECT: engine.project, labels.SERVICE: service.name}
        )


def remove(engine: Engine, report: Report, check_mode: bool) -> None:
    """Remove all volumes of the project."""
    if engine.client is None:
        return
    for volume in engine.client.volumes(filters=engine.filters)["Volumes"] or []:
        report.note("volume", volume["Name"], "remove", ["asked for"])
        if not check_mode:
            engine.client.remove_volume(volume["Name"], force=True)
