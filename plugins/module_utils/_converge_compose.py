# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The services that converge takes, as a Compose file (https://compose-spec.io). Private to the collection.

Built from the same options that converge compares with, so that both describe the same containers.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils._converge_plan import all_mounts, wanted

_MEBIBYTE = 1024**2


def _literal(value: Any) -> Any:
    """Keep Compose from taking a dollar for a variable of its own."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, list):
        return [_literal(item) for item in value]
    if isinstance(value, dict):
        return {key: _literal(item) for key, item in value.items()}
    return value


def _volume(mount: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": mount["type"],
        "source": mount["source"],
        "target": mount["target"],
        "read_only": bool(mount.get("read_only")),
    }


def _memory(count: int) -> str:
    return f"{count // _MEBIBYTE}m" if count % _MEBIBYTE == 0 else f"{count}b"


def service(
    spec: dict[str, Any], project: str, network: str, config_dir: str, selected: set[str]
) -> dict[str, Any]:
    """One service as Compose spells it; it waits for the health of those it depends on, if they are *selected*."""
    options = wanted(spec, project, network, config_dir)
    mounts = [mount for mount in all_mounts(spec, config_dir) if mount["type"] != "tmpfs"]
    depends = [name for name in spec.get("depends_on") or [] if name in selected]
    composed: dict[str, Any] = {
        "image": spec["image"],
        "container_name": spec["container"],
        "hostname": options["hostname"],
        "networks": {network: {"ipv4_address": options["address"], "aliases": options["aliases"]}},
        "depends_on": {name: {"condition": "service_healthy"} for name in depends},
        "environment": options["environment"],
        "volumes": [_volume(mount) for mount in mounts],
        "tmpfs": [f"{target}:{how}" for target, how in options["tmpfs"].items()],
        "ports": options["ports"],
        "extra_hosts": [f"{name}:{address}" for name, address in options["extra_hosts"].items()],
        "dns": options["dns"],
        "read_only": options["read_only"],
        "cap_add": options["cap_add"],
        "cap_drop": options["cap_drop"],
        "security_opt": options["security_opt"],
        "init": options["init"],
        "ulimits": options["ulimits"],
        "restart": options["restart_policy"],
    }
    for name in ("command", "entrypoint", "user", "working_dir", "stop_signal"):
        composed[name] = options.get(name)
    if options["memory"]:
        composed["mem_limit"] = _memory(options["memory"])
        composed["memswap_limit"] = _memory(options["memory_swap"])
    if options["cpu_shares"]:
        composed["cpu_shares"] = options["cpu_shares"]
    if options["pids_limit"]:
        composed["pids_limit"] = options["pids_limit"]
    if "stop_timeout" in options:
        composed["stop_grace_period"] = f"{options['stop_timeout']}s"
    if "shm_size" in options:
        composed["shm_size"] = _memory(options["shm_size"])
    if "log" in options:
        composed["logging"] = {"driver": "json-file", "options": options["log"]}
    if "health" in options:
        health = options["health"]
        seconds = ("interval", "timeout", "start_period")
        composed["healthcheck"] = {
            "test": health["test"],
            "retries": health["retries"],
            **{name: f"{health[name]}s" for name in seconds},
        }
    # Without the deployment's own labels, by which converge would take these containers for its own.
    if spec.get("labels"):
        composed["labels"] = {str(key): str(value) for key, value in spec["labels"].items()}
    unset: tuple[Any, ...] = (None, [], {}, "")
    return {key: _literal(value) for key, value in composed.items() if value not in unset}


def to_compose(
    services: list[dict[str, Any]], project: str, network: dict[str, Any], config_dir: str
) -> dict[str, Any]:
    """Compose file of *services* on their *network*; configuration files are read from *config_dir*.

    Errors: PlanError for a size that is none.
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
        "services": {spec["name"]: service(spec, project, name, config_dir, selected) for spec in services},
        # Those of the deployment, by their full names: Compose neither makes nor removes them.
        "networks": {name: {"external": True, "name": name}},
        "volumes": {volume: {"external": True, "name": volume} for volume in volumes},
    }
