# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write services as a Compose file (https://compose-spec.io). Private to the collection.

It is derived from the options that converge compares, so that both describe the same containers.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils._converge.options import composition, wanted
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.target import Target


def _literal(value: Any) -> Any:
    """Escape dollars, which Compose would take for variables."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, list):
        return [_literal(item) for item in value]
    if isinstance(value, dict):
        return {key: _literal(item) for key, item in value.items()}
    return value


def service(target: Target, selected: set[str]) -> dict[str, Any]:
    """Return one service as Compose spells it; it waits for those it depends on, if they are *selected*."""
    composed = composition(target, wanted(target))
    depends = [name for name in target.spec.get("depends_on") or [] if name in selected]
    composed["depends_on"] = {name: {"condition": "service_healthy"} for name in depends}
    unset: tuple[Any, ...] = (None, [], {}, "")
    return {key: _literal(value) for key, value in composed.items() if value not in unset}


def to_compose(
    services: list[dict[str, Any]], project: str, network: dict[str, Any], config_dir: str
) -> dict[str, Any]:
    """Return the Compose file of *services* on their *network*. Raises PlanError.

    Configuration files are read from *config_dir*.
    """
    name = network["name"]
    selected = {spec["name"] for spec in services}
    volumes = sorted(
        mount["source"]
        for spec in services
        for mount in spec.get("mounts") or []
        if mount["type"] == "volume"
    )
    return {
        "services": {
            spec["name"]: service(Target(spec, project, name, config_dir), selected) for spec in services
        },
        # Those of the deployment, by their full names: Compose neither makes nor removes them.
        "networks": {name: {"external": True, "name": name}},
        "volumes": {volume: {"external": True, "name": volume} for volume in volumes},
    }
