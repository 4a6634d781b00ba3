# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a service's container should be, what it is, and where the two differ. Private to the collection.

Nothing here talks to Docker: `wanted` reads a service's specification, `active` reads `docker inspect`, and both
give the same flat words, so that a difference names an option as the specification spells it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

LABEL = "int.skao.src.cavern"
PROJECT = f"{LABEL}.project"
SERVICE = f"{LABEL}.service"
DEPENDS = f"{LABEL}.depends_on"

_UNITS = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_NANO = 1_000_000_000


@dataclass(frozen=True)
class Renewed:
    """What the phases before the services would make anew, so that check mode can tell what follows from that."""

    files: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()


class PlanError(Exception):
    """The specification cannot work."""


def size(text: Any) -> int:
    """Bytes of a size such as 256m; 0 for none."""
    if text in (None, ""):
        return 0
    match = re.fullmatch(r"(\d+)\s*([bkmgt]?)b?", str(text).strip().lower())
    if not match:
        raise PlanError(f"{text!r} is not a size such as 256m or 1g")
    return int(match[1]) * _UNITS[match[2]]


def waves(depends: dict[str, list[str]]) -> list[list[str]]:
    """Order services so that each comes after those it depends on; those of one wave need not wait for each other."""
    left = {name: {other for other in others if other in depends} for name, others in depends.items()}
    order: list[list[str]] = []
    while left:
        wave = sorted(name for name, others in left.items() if not others)
        if not wave:
            raise PlanError(f"depends_on runs in a circle through {', '.join(sorted(left))}")
        order.append(wave)
        left = {name: others - set(wave) for name, others in left.items() if name not in wave}
    return order


def config_mount(spec: dict[str, Any], config_dir: str) -> list[dict[str, Any]]:
    """Mount of the service's configuration directory, if it has files."""
    if not spec.get("files"):
        return []
    return [
        {
            "type": "bind",
            "source": f"{config_dir}/{spec['name']}",
            "target": spec["config_target"],
            "read_only": True,
        }
    ]


def all_mounts(spec: dict[str, Any], config_dir: str) -> list[dict[str, Any]]:
    """Every mount of a service, its configuration included."""
    return config_mount(spec, config_dir) + (spec.get("mounts") or [])


def _mount(mount: dict[str, Any]) -> str:
    access = "ro" if mount.get("read_only") else "rw"
    return f"{mount['type']}:{mount['source']}:{mount['target']}:{access}"


def _tmpfs(mount: dict[str, Any]) -> str:
    parts = [f"mode={mount.get('tmpfs_mode') or '1777'}"]
    if mount.get("tmpfs_size"):
        parts.append(f"size={size(mount['tmpfs_size'])}")
    return ",".join(parts)


def _capability(name: str) -> str:
    return name.upper().removeprefix("CAP_")


def wanted(spec: dict[str, Any], project: str, network: str, config_dir: str) -> dict[str, Any]:
    """Options of a service's container; those that the specification leaves to the image are absent."""
    mounts = all_mounts(spec, config_dir)
    health = spec.get("health") or {}
    labels = {
        **{str(key): str(value) for key, value in (spec.get("labels") or {}).items()},
        PROJECT: project,
        SERVICE: spec["name"],
        DEPENDS: ",".join(sorted(spec.get("depends_on") or [])),
    }
    options: dict[str, Any] = {
        "network": network,
        "address": spec["address"],
        "aliases": sorted(spec.get("aliases") or []),
        "hostname": spec.get("hostname") or spec["container"],
        "environment": {str(key): str(value) for key, value in (spec.get("environment") or {}).items()},
        "mounts": sorted(_mount(mount) for mount in mounts if mount["type"] != "tmpfs"),
        "tmpfs": {mount["target"]: _tmpfs(mount) for mount in mounts if mount["type"] == "tmpfs"},
        "ports": sorted(
            f"{port.get('host_address') or '0.0.0.0'}:{port['host_port']}:{port['container_port']}/"
            f"{port.get('protocol') or 'tcp'}"
            for port in spec.get("ports") or []
        ),
        "extra_hosts": {str(key): str(value) for key, value in (spec.get("extra_hosts") or {}).items()},
        "dns": list(spec.get("dns") or []),
        "read_only": bool(spec.get("read_only")),
        "cap_add": sorted(map(_capability, spec.get("cap_add") or [])),
        "cap_drop": sorted(map(_capability, spec.get("cap_drop") or [])),
        "security_opt": sorted(spec.get("security_opt") or []),
        "init": bool(spec.get("init")),
        "memory": size(spec.get("memory")),
        "cpu_shares": int(spec.get("cpu_shares") or 0),
        "pids_limit": int(spec.get("pids_limit") or 0),
        "ulimits": {str(key): int(value) for key, value in (spec.get("ulimits") or {}).items()},
        "restart_policy": spec.get("restart_policy") or "no",
        "labels": labels,
    }
    # Without a limit of its own, swap would double the memory.
    options["memory_swap"] = size(spec.get("memory_swap")) or options["memory"]
    for name in ("command", "entrypoint"):
        if spec.get(name):
            options[name] = list(map(str, spec[name]))
    for name in ("user", "working_dir", "stop_signal"):
        if spec.get(name):
            options[name] = str(spec[name])
    if spec.get("stop_timeout"):
        options["stop_timeout"] = int(spec["stop_timeout"])
    if spec.get("shm_size"):
        options["shm_size"] = size(spec["shm_size"])
    if spec.get("log"):
        log = spec["log"]
        options["log"] = {"max-size": str(log["max_size"]), "max-file": str(log["max_file"])}
    if health.get("test"):
        options["health"] = {
            "test": list(map(str, health["test"])),
            **{
                name: int(health.get(name) or 0)
                for name in ("interval", "timeout", "retries", "start_period")
            },
        }
    return options


def _variables(entries: list[str] | None) -> dict[str, str]:
    return dict(entry.partition("=")[::2] for entry in entries or [])


def active(
    inspect: dict[str, Any], options: dict[str, Any], image: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The same options as `docker inspect` shows them; *image* is its inspected image."""
    config, host = inspect["Config"], inspect["HostConfig"]
    networks = inspect["NetworkSettings"]["Networks"] or {}
    endpoint = networks.get(options["network"]) or {}
    environment = _variables(config.get("Env"))
    # Variables of the image are nobody's wish. Without the image there is no telling them from those left over.
    inherited = environment if image is None else _variables((image.get("Config") or {}).get("Env"))
    aliases = set(endpoint.get("Aliases") or [])
    health = config.get("Healthcheck") or {}
    ports = [
        f"{binding.get('HostIp') or '0.0.0.0'}:{binding['HostPort']}:{port}"
        for port, bindings in (host.get("PortBindings") or {}).items()
        for binding in bindings or []
    ]
    # Images bring labels of their own.
    labels = {key: value for key, value in (config.get("Labels") or {}).items() if key in options["labels"]}
    found: dict[str, Any] = {
        "network": options["network"]
        if set(networks) == {options["network"]}
        else ", ".join(sorted(networks)),
        "address": (endpoint.get("IPAMConfig") or {}).get("IPv4Address") or endpoint.get("IPAddress") or "",
        "aliases": sorted(aliases & set(options["aliases"])),
        "hostname": config.get("Hostname"),
        "environment": {
            key: value
            for key, value in environment.items()
            if key in options["environment"] or inherited.get(key) != value
        },
        "mounts": sorted(
            _mount(
                {
                    "type": mount["Type"],
                    "source": mount["Name"] if mount["Type"] == "volume" else mount["Source"],
                    "target": mount["Destination"],
                    "read_only": not mount["RW"],
                }
            )
            for mount in inspect.get("Mounts") or []
            if mount["Type"] in ("bind", "volume")
        ),
        "tmpfs": dict(host.get("Tmpfs") or {}),
        "ports": sorted(ports),
        "extra_hosts": dict(entry.split(":", 1) for entry in host.get("ExtraHosts") or []),
        "dns": list(host.get("Dns") or []),
        "read_only": bool(host.get("ReadonlyRootfs")),
        "cap_add": sorted(map(_capability, host.get("CapAdd") or [])),
        "cap_drop": sorted(map(_capability, host.get("CapDrop") or [])),
        "security_opt": sorted(host.get("SecurityOpt") or []),
        "init": bool(host.get("Init")),
        "memory": host.get("Memory") or 0,
        "memory_swap": host.get("MemorySwap") or 0,
        "cpu_shares": host.get("CpuShares") or 0,
        "pids_limit": host.get("PidsLimit") or 0,
        "ulimits": {entry["Name"]: entry["Soft"] for entry in host.get("Ulimits") or []},
        "restart_policy": (host.get("RestartPolicy") or {}).get("Name") or "no",
        "labels": labels,
        "command": config.get("Cmd"),
        "entrypoint": config.get("Entrypoint"),
        "user": config.get("User"),
        "working_dir": config.get("WorkingDir"),
        "stop_signal": config.get("StopSignal"),
        "stop_timeout": config.get("StopTimeout"),
        "shm_size": host.get("ShmSize"),
        "log": (host.get("LogConfig") or {}).get("Config") or {},
        "health": {
            "test": health.get("Test"),
            "interval": (health.get("Interval") or 0) // _NANO,
            "timeout": (health.get("Timeout") or 0) // _NANO,
            "retries": health.get("Retries") or 0,
            "start_period": (health.get("StartPeriod") or 0) // _NANO,
        },
    }
    # An engine without swap accounting does not keep that limit.
    if found["memory_swap"] in (0, -1) and found["memory"] == options["memory"]:
        found["memory_swap"] = options["memory_swap"]
    return {name: found[name] for name in options}


def differences(options: dict[str, Any], found: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Options that differ, each with what is and what should be."""
    return {name: (found.get(name), value) for name, value in options.items() if found.get(name) != value}


def reasons(differing: dict[str, tuple[Any, Any]]) -> list[str]:
    """One line for each difference; of dictionaries only the keys that differ."""
    lines = []
    for name, (before, after) in differing.items():
        if isinstance(before, dict) and isinstance(after, dict):
            keys = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
            lines += [f"{name}.{key}: {before.get(key)!r} -> {after.get(key)!r}" for key in keys]
        else:
            lines.append(f"{name}: {before!r} -> {after!r}")
    return lines


def creation(spec: dict[str, Any], options: dict[str, Any], config_dir: str) -> dict[str, Any]:
    """Body of the engine's create call for a container with those options."""
    health = options.get("health")
    mounts = [mount for mount in all_mounts(spec, config_dir) if mount["type"] != "tmpfs"]
    ports = spec.get("ports") or []
    bindings: dict[str, list[dict[str, str]]] = {}
    for port in ports:
        bindings.setdefault(f"{port['container_port']}/{port.get('protocol') or 'tcp'}", []).append(
            {"HostIp": port.get("host_address") or "", "HostPort": str(port["host_port"])}
        )
    body: dict[str, Any] = {
        "Image": spec["image"],
        "Hostname": options["hostname"],
        "Env": [f"{key}={value}" for key, value in options["environment"].items()],
        "Labels": options["labels"],
        "ExposedPorts": {port: {} for port in bindings},
        "HostConfig": {
            "NetworkMode": options["network"],
            "Mounts": [
                {
                    "Type": mount["type"],
                    "Source": mount["source"],
                    "Target": mount["target"],
                    "ReadOnly": bool(mount.get("read_only")),
                }
                for mount in mounts
            ],
            "Tmpfs": options["tmpfs"],
            "PortBindings": bindings,
            "ExtraHosts": [f"{key}:{value}" for key, value in options["extra_hosts"].items()],
            "Dns": options["dns"],
            "ReadonlyRootfs": options["read_only"],
            "CapAdd": options["cap_add"],
            "CapDrop": options["cap_drop"],
            "SecurityOpt": options["security_opt"],
            "Init": options["init"],
            "Memory": options["memory"],
            "MemorySwap": options["memory_swap"],
            "CpuShares": options["cpu_shares"],
            "PidsLimit": options["pids_limit"] or None,
            "Ulimits": [
                {"Name": key, "Soft": value, "Hard": value} for key, value in options["ulimits"].items()
            ],
            "RestartPolicy": {"Name": options["restart_policy"]},
        },
        "NetworkingConfig": {
            "EndpointsConfig": {
                options["network"]: {
                    "IPAMConfig": {"IPv4Address": options["address"]},
                    "Aliases": options["aliases"],
                }
            }
        },
    }
    for name, key in {
        "command": "Cmd",
        "entrypoint": "Entrypoint",
        "user": "User",
        "working_dir": "WorkingDir",
        "stop_signal": "StopSignal",
        "stop_timeout": "StopTimeout",
    }.items():
        if name in options:
            body[key] = options[name]
    if "shm_size" in options:
        body["HostConfig"]["ShmSize"] = options["shm_size"]
    if "log" in options:
        body["HostConfig"]["LogConfig"] = {"Type": "json-file", "Config": options["log"]}
    if health:
        body["Healthcheck"] = {
            "Test": health["test"],
            "Interval": health["interval"] * _NANO,
            "Timeout": health["timeout"] * _NANO,
            "Retries": health["retries"],
            "StartPeriod": health["start_period"] * _NANO,
        }
    return body
