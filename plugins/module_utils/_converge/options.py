# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of a container, one object each. Private to the collection.

An option says how the module takes it, what value a service wants, what value a container has, and how the value is
written in the Engine's create call and in Compose. Argument spec, documentation, comparison, creation and the Compose
file are all derived from `OPTIONS`: an entry there is all that a new option takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils._converge import labels
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.arguments import Argument
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.target import (
    Container,
    Document,
    Option,
    Target,
    size,
)

_SECOND = 1_000_000_000  # in the Engine's unit of durations, ns

Convert = Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


def _put(document: Document, path: str, value: Any) -> None:
    """Set the value at a dotted path, making the dictionaries on the way."""
    *parents, last = path.split(".")
    for parent in parents:
        document = document.setdefault(parent, {})
    document[last] = value


def field(
    argument: Argument,
    engine: str,
    compose: str,
    *,
    wanted: Convert,
    active: Convert | None = None,
    create: Convert = _same,
    composed: Convert = _same,
) -> Option:
    """Return an option that is one field of the Engine and one key of Compose.

    `engine` is the field's path in the create call; `docker inspect` shows what is not in HostConfig below Config.
    `wanted` converts what the module was given, `active` what the Engine shows (by default in the same way),
    `create` and `composed` convert a wanted value for the Engine and for Compose, which omits None.
    """
    section, _dot, key = engine.rpartition(".")
    read = active or wanted
    return Option(
        argument.name,
        wanted=lambda target: wanted(target.spec.get(argument.name)),
        active=lambda container: read(container.inspect[section or "Config"].get(key)),
        create=lambda body, value, _target: _put(body, engine, create(value)),
        compose=lambda service, value, _target: _put(service, compose, composed(value)),
        argument=argument,
    )


# Conversions.


def _list(value: Any) -> list[Any]:
    return list(value or [])


def _texts(value: Any) -> dict[str, str]:
    return {str(key): str(text) for key, text in (value or {}).items()}


def _number(value: Any) -> int:
    return int(value or 0)


def _optional(convert: Convert) -> Convert:
    return lambda value: convert(value) if value else None


def _arguments(value: Any) -> list[str]:
    return [str(item) for item in value]


def _capabilities(value: Any) -> list[str]:
    return sorted(name.upper().removeprefix("CAP_") for name in value or [])


def _memory(count: int) -> str:
    """Return a size as Compose takes it."""
    return f"{count >> 20}m" if count % (1 << 20) == 0 else f"{count}b"


def _pairs(separator: str) -> Convert:
    return lambda value: [f"{key}{separator}{text}" for key, text in value.items()]


def _hosts(value: Any) -> dict[str, str]:
    return dict(entry.split(":", 1) for entry in value or [])


def _log(value: Any) -> dict[str, str]:
    return {"max-size": str(value["max_size"]), "max-file": str(value["max_file"])}


_HEALTH_SECONDS = {"interval": "Interval", "timeout": "Timeout", "start_period": "StartPeriod"}


def _health(value: Any) -> Document | None:
    if not (value or {}).get("test"):
        return None
    numbers = {name: _number(value.get(name)) for name in ("interval", "timeout", "retries", "start_period")}
    return {"test": _arguments(value["test"]), **numbers}


def _active_health(value: Any) -> Document:
    found = value or {}
    seconds = {name: _number(found.get(key)) // _SECOND for name, key in _HEALTH_SECONDS.items()}
    return {"test": found.get("Test"), "retries": _number(found.get("Retries")), **seconds}


def _created_health(value: Document) -> Document:
    seconds = {key: value[name] * _SECOND for name, key in _HEALTH_SECONDS.items()}
    return {"Test": value["test"], "Retries": value["retries"], **seconds}


def _composed_health(value: Document) -> Document:
    return value | {name: f"{value[name]}s" for name in _HEALTH_SECONDS}


# Options that are more than one field.


def _active_network(container: Container) -> str:
    name = container.wanted["network"]
    return name if set(container.networks) == {name} else ", ".join(sorted(container.networks))


def _create_network(body: Document, name: str, _target: Target) -> None:
    _put(body, "HostConfig.NetworkMode", name)


def _compose_network(service: Document, name: str, _target: Target) -> None:
    service.setdefault("networks", {}).setdefault(name, {})


def _endpoint(body: Document, target: Target) -> Document:
    """Return the endpoint in the deployment's network of a create call's body."""
    endpoints: Document = body.setdefault("NetworkingConfig", {}).setdefault("EndpointsConfig", {})
    endpoint: Document = endpoints.setdefault(target.network, {})
    return endpoint


def _active_address(container: Container) -> str:
    endpoint = container.endpoint
    return (endpoint.get("IPAMConfig") or {}).get("IPv4Address") or endpoint.get("IPAddress") or ""


def _create_address(body: Document, address: str, target: Target) -> None:
    _endpoint(body, target)["IPAMConfig"] = {"IPv4Address": address}


def _compose_address(service: Document, address: str, target: Target) -> None:
    service["networks"][target.network]["ipv4_address"] = address


def _active_aliases(container: Container) -> list[str]:
    # The Engine adds some of its own.
    return sorted(set(container.endpoint.get("Aliases") or []) & set(container.wanted["aliases"]))


def _create_aliases(body: Document, aliases: list[str], target: Target) -> None:
    _endpoint(body, target)["Aliases"] = aliases


def _compose_aliases(service: Document, aliases: list[str], target: Target) -> None:
    service["networks"][target.network]["aliases"] = aliases


def _variables(entries: list[str] | None) -> dict[str, str]:
    return dict(entry.partition("=")[::2] for entry in entries or [])


def _active_environment(container: Container) -> dict[str, str]:
    """Return what the container sets itself: wanted variables, and those that do not come from the image."""
    environment = _variables(container.config.get("Env"))
    # Without the image, its variables cannot be told from those that an earlier specification set.
    image = container.image
    inherited = environment if image is None else _variables((image.get("Config") or {}).get("Env"))
    return {
        key: value
        for key, value in environment.items()
        if key in container.wanted["environment"] or inherited.get(key) != value
    }


def _mount(kind: str, source: str, target: str, read_only: bool) -> str:
    return f"{kind}:{source}:{target}:{'ro' if read_only else 'rw'}"


def _wanted_mounts(target: Target) -> list[str]:
    return sorted(
        _mount(mount["type"], mount["source"], mount["target"], bool(mount.get("read_only")))
        for mount in target.mounts
    )


def _active_mounts(container: Container) -> list[str]:
    return sorted(
        _mount(
            mount["Type"],
            mount["Name"] if mount["Type"] == "volume" else mount["Source"],
            mount["Destination"],
            not mount["RW"],
        )
        for mount in container.inspect.get("Mounts") or []
        if mount["Type"] in ("bind", "volume")
    )


def _mount_fields(mount: Document) -> Document:
    fields = {name: mount[name] for name in ("type", "source", "target")}
    return fields | {"read_only": bool(mount.get("read_only"))}


_MOUNT_KEYS = {"type": "Type", "source": "Source", "target": "Target", "read_only": "ReadOnly"}


def _create_mounts(body: Document, _value: list[str], target: Target) -> None:
    mounts = [_mount_fields(mount) for mount in target.mounts]
    _put(
        body,
        "HostConfig.Mounts",
        [{key: mount[name] for name, key in _MOUNT_KEYS.items()} for mount in mounts],
    )


def _compose_mounts(service: Document, _value: list[str], target: Target) -> None:
    service["volumes"] = [_mount_fields(mount) for mount in target.mounts]


def _tmpfs(mount: Document) -> str:
    mode = f"mode={mount.get('tmpfs_mode') or '1777'}"
    return f"{mode},size={size(mount['tmpfs_size'])}" if mount.get("tmpfs_size") else mode


def _create_tmpfs(body: Document, tmpfs: dict[str, str], _target: Target) -> None:
    _put(body, "HostConfig.Tmpfs", tmpfs)


def _compose_tmpfs(service: Document, tmpfs: dict[str, str], _target: Target) -> None:
    service["tmpfs"] = _pairs(":")(tmpfs)


def _container_port(port: Document) -> str:
    return f"{port['container_port']}/{port.get('protocol') or 'tcp'}"


def _wanted_ports(target: Target) -> list[str]:
    return sorted(
        f"{port.get('host_address') or '0.0.0.0'}:{port['host_port']}:{_container_port(port)}"
        for port in target.spec.get("ports") or []
    )


def _active_ports(container: Container) -> list[str]:
    return sorted(
        f"{binding.get('HostIp') or '0.0.0.0'}:{binding['HostPort']}:{port}"
        for port, bindings in (container.host.get("PortBindings") or {}).items()
        for binding in bindings or []
    )


def _create_ports(body: Document, _value: list[str], target: Target) -> None:
    bindings: dict[str, list[dict[str, str]]] = {}
    for port in target.spec.get("ports") or []:
        bindings.setdefault(_container_port(port), []).append(
            {"HostIp": port.get("host_address") or "", "HostPort": str(port["host_port"])}
        )
    body["ExposedPorts"] = {port: {} for port in bindings}
    _put(body, "HostConfig.PortBindings", bindings)


def _compose_ports(service: Document, ports: list[str], _target: Target) -> None:
    service["ports"] = ports


def _wanted_labels(target: Target) -> dict[str, str]:
    return {
        **_texts(target.spec.get("labels")),
        labels.PROJECT: target.project,
        labels.SERVICE: target.spec["name"],
        labels.DEPENDS: ",".join(sorted(target.spec.get("depends_on") or [])),
    }


def _active_labels(container: Container) -> dict[str, str]:
    # Images bring labels of their own.
    found: dict[str, str] = container.config.get("Labels") or {}
    return {key: value for key, value in found.items() if key in container.wanted["labels"]}


def _create_labels(body: Document, value: dict[str, str], _target: Target) -> None:
    body["Labels"] = value


def _compose_labels(service: Document, _value: dict[str, str], target: Target) -> None:
    # Without the deployment's own labels: converge would take Compose's containers for its own.
    service["labels"] = _texts(target.spec.get("labels"))


def _wanted_swap(target: Target) -> int:
    # Without a limit of its own, swap would double the memory.
    return size(target.spec.get("memory_swap")) or size(target.spec.get("memory"))


def _active_swap(container: Container) -> int:
    limit = _number(container.host.get("MemorySwap"))
    # An Engine without swap accounting does not keep that limit.
    if limit in (0, -1) and _number(container.host.get("Memory")) == container.wanted["memory"]:
        return int(container.wanted["memory_swap"])
    return limit


def _create_swap(body: Document, limit: int, _target: Target) -> None:
    _put(body, "HostConfig.MemorySwap", limit)


def _compose_swap(service: Document, limit: int, target: Target) -> None:
    service["memswap_limit"] = _memory(limit) if size(target.spec.get("memory")) else None


def _texts_argument(name: str, description: str, default: Any = ()) -> Argument:
    return Argument(name, description, "list", elements="str", default=list(default))


OPTIONS: tuple[Option, ...] = (
    Option(
        "network",
        wanted=lambda target: target.network,
        active=_active_network,
        create=_create_network,
        compose=_compose_network,
    ),
    Option(
        "address",
        wanted=lambda target: target.spec["address"],
        active=_active_address,
        create=_create_address,
        compose=_compose_address,
        argument=Argument("address", "IPv4 address in the network.", required=True),
    ),
    Option(
        "aliases",
        wanted=lambda target: sorted(target.spec.get("aliases") or []),
        active=_active_aliases,
        create=_create_aliases,
        compose=_compose_aliases,
        argument=_texts_argument("aliases", "Further host names in the network."),
    ),
    Option(
        "hostname",
        wanted=lambda target: target.spec.get("hostname") or target.spec["container"],
        active=lambda container: container.config.get("Hostname"),
        create=lambda body, name, _target: _put(body, "Hostname", name),
        compose=lambda service, name, _target: _put(service, "hostname", name),
        argument=Argument("hostname", "Host name inside; the container's name by default."),
    ),
    Option(
        "environment",
        wanted=lambda target: _texts(target.spec.get("environment")),
        active=_active_environment,
        create=lambda body, variables, _target: _put(body, "Env", _pairs("=")(variables)),
        compose=lambda service, variables, _target: _put(service, "environment", variables),
        argument=Argument(
            "environment",
            "Environment variables. They are shown in diffs: put secrets into files.",
            "dict",
            default={},
        ),
    ),
    Option(
        "mounts",
        wanted=_wanted_mounts,
        active=_active_mounts,
        create=_create_mounts,
        compose=_compose_mounts,
        argument=Argument(
            "mounts",
            "Mounts.",
            "list",
            elements="dict",
            default=[],
            options=(
                Argument("type", "Kind of mount.", choices=("bind", "volume", "tmpfs"), required=True),
                Argument("source", "Path on the host, or name of a volume."),
                Argument("target", "Path in the container.", required=True),
                Argument("read_only", "Mount it read-only.", "bool", default=False),
                Argument("owner", "uid that owns the service's files on a volume.", "int"),
                Argument(
                    "former_owners",
                    [
                        "uids that may have owned them before. If the volume belongs to one of them, the volume and "
                        "all that this user owns on it are given to O(services[].mounts[].owner) before the container "
                        "is created.",
                    ],
                    "list",
                    elements="int",
                    default=[],
                ),
                Argument("tmpfs_size", "Size of a tmpfs such as 64m."),
                Argument("tmpfs_mode", "Permissions of a tmpfs."),
            ),
        ),
    ),
    Option(
        "tmpfs",
        wanted=lambda target: {mount["target"]: _tmpfs(mount) for mount in target.tmpfs},
        active=lambda container: dict(container.host.get("Tmpfs") or {}),
        create=_create_tmpfs,
        compose=_compose_tmpfs,
    ),
    Option(
        "ports",
        wanted=_wanted_ports,
        active=_active_ports,
        create=_create_ports,
        compose=_compose_ports,
        argument=Argument(
            "ports",
            "Published ports.",
            "list",
            elements="dict",
            default=[],
            options=(
                Argument("host_address", "Address of the host.", default="127.0.0.1"),
                Argument("host_port", "Port of the host.", "int", required=True),
                Argument("container_port", "Port of the container.", "int", required=True),
                Argument("protocol", "Protocol.", choices=("tcp", "udp"), default="tcp"),
            ),
        ),
    ),
    field(
        Argument("extra_hosts", "Entries of the container's hosts file.", "dict", default={}),
        "HostConfig.ExtraHosts",
        "extra_hosts",
        wanted=_texts,
        active=_hosts,
        create=_pairs(":"),
        composed=_pairs(":"),
    ),
    field(_texts_argument("dns", "Name servers."), "HostConfig.Dns", "dns", wanted=_list),
    field(
        Argument("read_only", "Read-only root file system.", "bool", default=False),
        "HostConfig.ReadonlyRootfs",
        "read_only",
        wanted=bool,
    ),
    field(
        _texts_argument("cap_add", "Capabilities to add."),
        "HostConfig.CapAdd",
        "cap_add",
        wanted=_capabilities,
    ),
    field(
        _texts_argument("cap_drop", "Capabilities to drop."),
        "HostConfig.CapDrop",
        "cap_drop",
        wanted=_capabilities,
    ),
    field(
        _texts_argument("security_opt", "Security options."),
        "HostConfig.SecurityOpt",
        "security_opt",
        wanted=lambda value: sorted(value or []),
    ),
    field(
        Argument("init", "Run an init process as PID 1.", "bool", default=False),
        "HostConfig.Init",
        "init",
        wanted=bool,
    ),
    field(
        Argument("memory", "Memory limit such as 256m."),
        "HostConfig.Memory",
        "mem_limit",
        wanted=size,
        active=_number,
        composed=_optional(_memory),
    ),
    field(
        Argument(
            "cpu_shares", "Weight when the processors are contended; the Engine's default is 1024.", "int"
        ),
        "HostConfig.CpuShares",
        "cpu_shares",
        wanted=_number,
        composed=_optional(_same),
    ),
    field(
        Argument("pids_limit", "Maximum number of processes.", "int"),
        "HostConfig.PidsLimit",
        "pids_limit",
        wanted=_number,
        create=_optional(_same),
        composed=_optional(_same),
    ),
    field(
        Argument("ulimits", "Resource limits (ulimit) by name.", "dict", default={}),
        "HostConfig.Ulimits",
        "ulimits",
        wanted=lambda value: {str(name): int(limit) for name, limit in (value or {}).items()},
        active=lambda value: {entry["Name"]: entry["Soft"] for entry in value or []},
        create=lambda value: [{"Name": k, "Soft": limit, "Hard": limit} for k, limit in value.items()],
    ),
    field(
        Argument(
            "restart_policy",
            "When Docker restarts it.",
            choices=("no", "always", "unless-stopped", "on-failure"),
            default="unless-stopped",
        ),
        "HostConfig.RestartPolicy",
        "restart",
        wanted=lambda value: value or "no",
        active=lambda value: (value or {}).get("Name") or "no",
        create=lambda value: {"Name": value},
    ),
    Option(
        "labels",
        wanted=_wanted_labels,
        active=_active_labels,
        create=_create_labels,
        compose=_compose_labels,
        argument=Argument("labels", "Further labels.", "dict", default={}),
    ),
    Option(
        "memory_swap",
        wanted=_wanted_swap,
        active=_active_swap,
        create=_create_swap,
        compose=_compose_swap,
        argument=Argument("memory_swap", "Limit of memory and swap together; the memory limit by default."),
    ),
    field(
        _texts_argument("command", "Command and arguments."),
        "Cmd",
        "command",
        wanted=_optional(_arguments),
        active=_same,
    ),
    field(
        _texts_argument("entrypoint", "Entry point."),
        "Entrypoint",
        "entrypoint",
        wanted=_optional(_arguments),
        active=_same,
    ),
    field(
        Argument("user", "uid and gid that it runs as, such as 8000:8000."),
        "User",
        "user",
        wanted=_optional(str),
        active=_same,
    ),
    field(
        Argument("working_dir", "Working directory."),
        "WorkingDir",
        "working_dir",
        wanted=_optional(str),
        active=_same,
    ),
    field(
        Argument("stop_signal", "Signal that stops it."),
        "StopSignal",
        "stop_signal",
        wanted=_optional(str),
        active=_same,
    ),
    field(
        Argument("stop_timeout", "Seconds before it is killed.", "int"),
        "StopTimeout",
        "stop_grace_period",
        wanted=_optional(int),
        active=_same,
        composed=lambda seconds: f"{seconds}s",
    ),
    field(
        Argument("shm_size", "Size of /dev/shm such as 64m."),
        "HostConfig.ShmSize",
        "shm_size",
        wanted=_optional(size),
        active=_same,
        composed=_memory,
    ),
    field(
        Argument(
            "log",
            "Limits of the container's log.",
            "dict",
            options=(
                Argument("max_size", "Size of one file.", default="10m"),
                Argument("max_file", "Number of files.", "int", default=3),
            ),
        ),
        "HostConfig.LogConfig",
        "logging",
        wanted=_optional(_log),
        active=lambda value: (value or {}).get("Config") or {},
        create=lambda value: {"Type": "json-file", "Config": value},
        composed=lambda value: {"driver": "json-file", "options": value},
    ),
    field(
        Argument(
            "health",
            "Health check.",
            "dict",
            options=(
                Argument(
                    "test",
                    "Command as Docker takes it; begins with CMD or CMD-SHELL.",
                    "list",
                    elements="str",
                ),
                Argument("interval", "Seconds between two checks by Docker.", "int", default=10),
                Argument("timeout", "Seconds that a check may take.", "int", default=5),
                Argument("retries", "Failures in a row that make it unhealthy.", "int", default=3),
                Argument("start_period", "Seconds in which failures do not count.", "int", default=60),
            ),
        ),
        "Healthcheck",
        "healthcheck",
        wanted=_health,
        active=_active_health,
        create=_created_health,
        composed=_composed_health,
    ),
)

# What a service is beside the options of its container.
SERVICE: tuple[Argument, ...] = (
    Argument("name", "Key of the service.", required=True),
    Argument("container", "Name of the container.", required=True),
    Argument("image", "Image, which must be on the host.", required=True),
    Argument(
        "files",
        "Configuration files; any other file in the service's directory is removed.",
        "list",
        elements="dict",
        default=[],
        options=(
            Argument("path", "Path below the service's directory.", required=True),
            Argument("content", "Content, which is shown in diffs."),
            Argument("secret_content", "Content that is never shown.", no_log=True),
            Argument("source", "File on the host to copy instead.", "path"),
            Argument("mode", "Permissions in octal.", default="0444"),
            Argument("owner", "uid.", "int", default=0),
            Argument("group", "gid.", "int", default=0),
            Argument("secret", "Never show the content of the source.", "bool", default=False, no_log=False),
            Argument(
                "on_change",
                "What is done to the container when the file changes.",
                choices=("none", "reload", "restart", "recreate"),
                default="restart",
            ),
        ),
    ),
    Argument("config_target", "Where the configuration directory is mounted.", default="/config"),
    Argument(
        "reload",
        "How to make it read changed files again without a restart.",
        "dict",
        options=(
            Argument("signal", "Signal to send."),
            Argument("command", "Command to run inside.", "list", elements="str"),
        ),
    ),
    _texts_argument("depends_on", "Services that must be healthy first."),
    *(option.argument for option in OPTIONS if option.argument),
)


def wanted(target: Target) -> dict[str, Any]:
    """Return the wanted values by option; those that are left to the image are absent. Raises PlanError."""
    values = {option.name: option.wanted(target) for option in OPTIONS}
    return {name: value for name, value in values.items() if value is not None}


def active(inspect: Document, values: dict[str, Any], image: Document | None = None) -> dict[str, Any]:
    """Return a container's values of the wanted options."""
    container = Container(inspect, values, image)
    return {option.name: option.active(container) for option in OPTIONS if option.name in values}


def creation(target: Target, values: dict[str, Any]) -> Document:
    """Return the body of the Engine's create call for a container with the wanted values."""
    body: Document = {"Image": target.spec["image"]}
    for option in OPTIONS:
        if option.name in values:
            option.create(body, values[option.name], target)
    return body


def composition(target: Target, values: dict[str, Any]) -> Document:
    """Return the wanted values as keys of a Compose service; a key that is None or empty is unset."""
    service: Document = {"image": target.spec["image"], "container_name": target.spec["container"]}
    for option in OPTIONS:
        if option.name in values:
            option.compose(service, values[option.name], target)
    return service


def differences(values: dict[str, Any], found: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the options that differ, each with its active and its wanted value."""
    return {name: (found.get(name), value) for name, value in values.items() if found.get(name) != value}


def reasons(differing: dict[str, tuple[Any, Any]]) -> list[str]:
    """Return one line for each difference; of dictionaries only the keys that differ.

    Values of the environment are left out: a site's own service may take a secret there, and reasons are printed.
    """
    lines = []
    for name, (before, after) in differing.items():
        if isinstance(before, dict) and isinstance(after, dict):
            keys = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
            if name == "environment":
                lines += [f"environment.{key} {_change(key, before, after)}" for key in keys]
            else:
                lines += [f"{name}.{key}: {before.get(key)!r} -> {after.get(key)!r}" for key in keys]
        else:
            lines.append(f"{name}: {before!r} -> {after!r}")
    return lines


def _change(key: str, before: dict[str, Any], after: dict[str, Any]) -> str:
    if key not in before:
        return "is new"
    return "changed" if key in after else "is gone"
