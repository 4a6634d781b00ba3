# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the catalogue to what the converge module takes.

Three steps, each a filter: ``resolve_catalogue`` composes, completes and checks the catalogue from what roles state,
``select_services`` picks what a run's tags ask for, and ``compose_services`` joins what all services share with what
each role states of its container.
"""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import json
import os
import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from ansible.errors import AnsibleFilterError
from ansible.module_utils.common.validation import (
    check_type_bool,
    check_type_dict,
    check_type_int,
    check_type_list,
    check_type_str,
)
from ansible_collections.skasrc.cavern.plugins.plugin_utils import _settings

# Phases before the services, each with its own tag.
PHASES = ("host", "certificates", "hosts_entries", "images", "network")

FLAVOURS = ("embedded", "opencadc")

TYPES: dict[str, Callable[[Any], Any]] = {
    "bool": check_type_bool,
    "dict": check_type_dict,
    "int": check_type_int,
    "list": check_type_list,
    "str": check_type_str,
}

# Kinds of checks besides that of a service's container, with the name that reports give each.
CHECKS = {"amqp": "broker", "postgres": "database", "tls": "certificate"}

# Fields of a service in the catalogue.
BUILD: dict[str, Any] = {
    "directory": {"type": "str"},
    "dockerfile": {"type": "str"},
    "target": {"type": "str"},
    "arguments": {"type": "dict"},
    "images": {"type": "dict"},
}
PROBE: dict[str, Any] = {"path": {"type": "str"}, "status": {"type": "int"}, "vosi": {"type": "bool"}}
FIELDS: dict[str, Any] = {
    "enabled": {"type": "bool"},
    "container": {"type": "str"},
    "number": {"type": "int"},
    "port": {"type": "int"},
    "further_ports": {"type": "list", "elements": "int"},
    "metrics": {"type": "int"},
    "monitors": {"type": "bool"},
    "image": {"type": "str"},
    "build": {"type": "dict", "options": BUILD},
    "options": {"type": "dict"},
    "user": {"type": "int"},
    "route": {"type": "str"},
    "strip_route": {"type": "bool"},
    "proxy_proof": {"type": "bool"},
    "depends_on": {"type": "list", "elements": "str"},
    "starts_after": {"type": "list", "elements": "str"},
    "memory": {"type": "str"},
    "cpu": {"type": "str"},
    "replicas": {"type": "int"},
    "scales": {"type": "bool"},
    "state": {"type": "str"},
    "phases": {"type": "list", "elements": "str"},
    "summary": {"type": "str"},
    "flavour": {"type": "str"},
    "java": {"type": "bool"},
    "check": {"type": "str"},
    "probe": {"type": "dict", "options": PROBE},
}
REQUIRED = ("container", "number", "image", "memory", "summary")
ENTRY: dict[str, Any] = FIELDS | {"opencadc": {"type": "dict", "options": FIELDS}}

# MiB that a Java virtual machine needs, whose heap has five eighths of the container's memory.
SMALLEST_JAVA = 512

# The setting that changes single fields of services, named in errors as the place for the fix.
OVERRIDES = "deployment_service_overrides"

# Tags that mean "the whole run" to Ansible itself.
_EVERYTHING = {"all", "always", "tagged"}


def _merge(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """Merge nested dictionaries; lists and scalars of *extra* win."""
    merged = dict(base)
    for key, value in extra.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _typed(place: str, entry: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """Convert fields of a service to their types. Refuses unknown fields and values of other types."""
    if not isinstance(entry, dict):
        raise AnsibleFilterError(f"{place}: give the fields of the service, such as {{memory: 1g}}")
    for name in sorted(set(entry) - set(fields)):
        near = difflib.get_close_matches(str(name), fields, n=1)
        raise AnsibleFilterError(
            f"{place}.{name}: a service has no such field"
            f"{f'; is it {near[0]}?' if near else ''} It has {', '.join(sorted(fields))}"
        )
    typed: dict[str, Any] = {}
    for name, value in entry.items():
        for wrong in _settings.misshapen(f"{place}.{name}", fields[name], value, lambda value: value):
            raise AnsibleFilterError(wrong)
        if "options" in fields[name]:
            typed[name] = _typed(f"{place}.{name}", value, fields[name]["options"])
            continue
        try:
            typed[name] = value if value is None else TYPES[fields[name]["type"]](value)
        except TypeError as error:
            raise AnsibleFilterError(f"{place}.{name}: {error}") from error
    return typed


def _check_names(network: dict[str, Any]) -> None:
    """Refuse a network name that Docker, or the kernel for its interface, does not accept."""
    name, bridge = str(network.get("name", "")), str(network.get("bridge") or network.get("name"))
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise AnsibleFilterError(
            f"deployment_network.name: {name!r} must be letters, digits and '_.-', the first a letter or digit"
        )
    if not re.fullmatch(r"[^\s/:]{1,15}", bridge):
        raise AnsibleFilterError(
            f"deployment_network.bridge: {bridge!r} cannot be an interface: at most 15 characters, no blank, '/' or ':'"
        )


def _subnet(network: dict[str, Any]) -> ipaddress.IPv4Network:
    text = network.get("subnet", "")
    try:
        return ipaddress.IPv4Network(text)
    except ValueError as exc:
        raise AnsibleFilterError(
            f"deployment_network.subnet: {text!r} is not an IPv4 subnet such as 172.26.0.0/16 ({exc})"
        ) from exc


def _flavoured(key: str, entry: dict[str, Any], flavour: str, override: dict[str, Any]) -> dict[str, Any]:
    """Determine the flavour of a service; those with only one keep it whatever is requested."""
    service = {name: value for name, value in entry.items() if name != "opencadc"}
    chosen = service.get("flavour", flavour)
    if chosen not in FLAVOURS:
        raise AnsibleFilterError(f"{OVERRIDES}.{key}.flavour: {chosen!r} is none of {', '.join(FLAVOURS)}")
    variant = entry.get("opencadc")
    if chosen == "opencadc" and variant is not None:
        # What a deployment sets itself stands above both flavours.
        return _merge(_merge(service, variant), override) | {"flavour": "opencadc"}
    if override.get("flavour") == "opencadc":
        raise AnsibleFilterError(f"{OVERRIDES}.{key}.flavour: there is no OpenCADC image for {key}")
    return service | {"flavour": "embedded"}


def _check_foreign(key: str, service: dict[str, Any]) -> None:
    """Refuse an image without a registry, and a memory limit too small for a Java virtual machine."""
    image, at, digest = str(service["image"]).partition("@")
    if "/" not in image or (at and not re.fullmatch(r"sha256:[0-9a-f]{64}", digest)):
        raise AnsibleFilterError(
            f"{OVERRIDES}.{key}.image: {service['image']!r} names no registry, or no whole digest; give "
            "for example images.opencadc.org/core/reg:1.2.1, or @sha256: and 64 hexadecimal digits in place of the tag"
        )
    if not service.get("java"):
        return
    memory = re.fullmatch(r"(\d+)([mg])", str(service["memory"]).lower())
    if not memory or int(memory[1]) * (1024 if memory[2] == "g" else 1) < SMALLEST_JAVA:
        raise AnsibleFilterError(
            f"{OVERRIDES}.{key}.memory: {service['memory']!r} is not a size such as 2g; "
            f"OpenCADC's images need {SMALLEST_JAVA}m or more"
        )


def _unique(services: dict[str, Any], field: str) -> None:
    seen: dict[str, str] = {}
    for key, service in services.items():
        value = service.get(field)
        if not value:
            continue
        if value in seen:
            raise AnsibleFilterError(
                f"{OVERRIDES}.{key}.{field}: {value!r} is also that of {seen[value]}; each service needs its own"
            )
        seen[value] = key


def _settle_dependences(service: dict[str, Any], services: dict[str, Any]) -> None:
    """Complete the services that a service connects to, and those that it waits for before it starts."""
    depends = service["depends_on"]
    if service["role"] == "haproxy":
        depends = [*depends, *(key for key, other in services.items() if "route" in other)]
        service.setdefault("starts_after", [])
    service["depends_on"] = [key for key in dict.fromkeys(depends) if key in services]
    after = service.get(
        "starts_after", [key for key in service["depends_on"] if services[key]["role"] != "haproxy"]
    )
    service["starts_after"] = [key for key in after if key in services]


def _stated(roles: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the services declared by *roles*, by key and in the order of their numbers."""
    found: dict[str, dict[str, Any]] = {}
    for role, entries in roles.items():
        name = role.rpartition(".")[2]
        for key, entry in entries.items():
            place = f"{name}_services.{key}"
            if key in found:
                raise AnsibleFilterError(
                    f"{place}: the role {found[key]['role']} has a service of this name too"
                )
            typed = _typed(place, entry, ENTRY)
            for field in REQUIRED:
                if field not in typed:
                    raise AnsibleFilterError(f"{place}.{field}: is missing")
            found[key] = typed | {"role": name}
    return dict(sorted(found.items(), key=lambda item: int(item[1]["number"])))


def resolve_catalogue(
    roles: dict[str, dict[str, Any]],
    overrides: dict[str, Any],
    network: dict[str, Any],
    prefix: str,
    flavour: str,
    image_prefix: str,
    image_tag: str,
    user: int,
) -> dict[str, Any]:
    """Compose the catalogue from what the *roles* state, complete each entry, and refuse what cannot work."""
    stated = _stated(roles)
    unknown = sorted(set(overrides) - set(stated))
    if unknown:
        raise AnsibleFilterError(
            f"{OVERRIDES}: no such service: {', '.join(unknown)}; the catalogue has {', '.join(sorted(stated))}"
        )
    overrides = {key: _typed(f"{OVERRIDES}.{key}", entry, ENTRY) for key, entry in overrides.items()}
    _check_names(network)
    subnet = _subnet(network)
    services: dict[str, Any] = {}
    for key, entry in _merge(stated, overrides).items():
        if entry.get("enabled", True):
            service = _flavoured(key, entry, flavour, overrides.get(key, {})) | {"key": key}
            services[key] = _completed(service, subnet, prefix, image_prefix, image_tag, user)
    if not services:
        raise AnsibleFilterError(f"{OVERRIDES}: every service is disabled")
    for service in services.values():
        _settle_dependences(service, services)
    for field in ("container", "address", "route"):
        _unique(services, field)
    return services


def _completed(
    service: dict[str, Any],
    subnet: ipaddress.IPv4Network,
    prefix: str,
    image_prefix: str,
    image_tag: str,
    user: int,
) -> dict[str, Any]:
    """Complete a service: its address, the full names of container and image, and defaults."""
    key, number = service["key"], service["number"]
    image = _built_name(key, service["build"]) if service.get("build") else str(service["image"])
    if not 1 < number < subnet.num_addresses - 1:
        raise AnsibleFilterError(
            f"{OVERRIDES}.{key}.number: {number!r} is not the host part of an address in {subnet}: "
            f"give a whole number from 2 to {subnet.num_addresses - 2}"
        )
    route = service.get("route")
    if route is not None and (not route.startswith("/") or route.endswith("/")):
        raise AnsibleFilterError(
            f"{OVERRIDES}.{key}.route: {route!r} must start with a slash and not end with one"
        )
    if service.get("check") not in (None, *CHECKS):
        raise AnsibleFilterError(
            f"{OVERRIDES}.{key}.check: {service['check']!r} is none of {', '.join(CHECKS)}"
        )
    ports = {int(port) for port in (service.get("port"), *service.get("further_ports", [])) if port}
    completed: dict[str, Any] = {"depends_on": [], "phases": [], "user": user} | service
    completed |= {
        "alias": service["container"],
        "container": prefix + service["container"],
        "address": str(subnet[number]),
        # Where its connections come from.
        "source": str(subnet[number]),
        "user": int(completed["user"]),
        "ports": sorted(ports),
        "image": image if "/" in image or ":" in image else f"{image_prefix}/{image}:{image_tag}",
    }
    if completed.get("metrics") is None:
        # OpenCADC's services have none.
        completed.pop("metrics", None)
    if completed["flavour"] == "opencadc":
        _check_foreign(key, completed)
    return completed


def _built_name(key: str, build: dict[str, Any]) -> str:
    """Return the name of the image that is built from a directory; other deployments may build it differently."""
    place = f"{OVERRIDES}.{key}.build"
    directory = os.path.expanduser(build.get("directory") or "")
    if not os.path.isabs(directory):
        raise AnsibleFilterError(
            f"{place}.directory: {directory!r} must be an absolute path, or one that begins with ~"
        )
    build["directory"] = os.path.realpath(directory)
    options = json.dumps(build, sort_keys=True)
    return f"site-{key}-{hashlib.sha256(options.encode()).hexdigest()[:8]}"


def build_recipes(services: dict[str, Any]) -> dict[str, Any]:
    """Return recipes of the images that are built from directories outside the collection, by image name."""
    return {
        service["image"].rpartition("/")[2].partition(":")[0]: {
            "directory": build["directory"],
            "dockerfile": build.get("dockerfile") or "Dockerfile",
            "target": build.get("target") or "",
            "arguments": build.get("arguments") or {},
            "stages": build.get("images") or {},
        }
        for service in services.values()
        if (build := service.get("build"))
    }


def faults(checks: list[dict[str, Any]], services: list[str]) -> list[str]:
    """Return the errors in the settings, according to the *checks* of roles.

    A check tells in ``text`` what is wrong unless it is ``good``. If it names services, it matters where one of them is
    among the *services*.
    """
    wrong = [
        check["text"]
        for check in checks
        if ("services" not in check or set(check["services"]) & set(services))
        and not check_type_bool(check["good"])
    ]
    return list(dict.fromkeys(wrong))


def select_phases(tags: list[str], skip: list[str]) -> list[str]:
    """Return the phases selected by the run's *tags*, without those to *skip*."""
    everything = bool(_EVERYTHING & set(tags))
    return [phase for phase in PHASES if (everything or phase in tags) and phase not in skip]


def select_services(
    services: dict[str, Any], tags: list[str], skip: list[str], groups: list[str]
) -> list[str]:
    """Return the keys of this host's services selected by the run's *tags*, without those to *skip*."""
    here = [key for key in services if key in groups and not {key, services[key]["role"]} & set(skip)]
    wanted = set(tags)
    if wanted & _EVERYTHING:
        return here
    return [key for key in here if wanted & {key, services[key]["role"], *services[key]["phases"]}]


def _file(item: dict[str, Any], user: int, mode: str) -> dict[str, Any]:
    """Set a file's owner and restore the final newline, which templating drops; bare secrets have none."""
    completed = {"owner": user, "group": user, "mode": mode, **item}
    content = completed.get("content")
    if content and not completed["path"].startswith("secrets/") and not content.endswith("\n"):
        completed["content"] = content + "\n"
    if completed.get("secret") and content is not None:
        completed["secret_content"] = completed.pop("content")
    return completed


def _with_options(own: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return a container's options from its role, with the deployment's changes; mounts and files are added."""
    added = {name: [*own.get(name, []), *options.get(name, [])] for name in ("mounts", "files")}
    return _merge(own, options) | added


def compose_services(
    keys: list[str], services: dict[str, Any], particulars: dict[str, Any], defaults: dict[str, Any]
) -> list[dict[str, Any]]:
    """Join the *defaults* of all containers, the catalogue's entry and the role's options."""
    composed = []
    for key in keys:
        entry = services[key]
        own = _with_options(particulars[key], entry.get("options") or {})
        user = entry["user"]
        # OpenCADC's images read theirs as root and as users of their own.
        mode = "0444" if entry["flavour"] == "opencadc" else "0400"
        shared = {
            "name": key,
            "container": entry["container"],
            "aliases": [entry["alias"]],
            "hostname": entry["alias"].replace("_", "-"),
            "image": entry["image"],
            "address": entry["address"],
            "user": f"{user}:{user}",
            "memory": entry["memory"],
            "depends_on": entry["starts_after"],
        }
        spec = _merge(_merge(defaults, shared), own)
        spec["mounts"] = [*defaults.get("mounts", []), *own.get("mounts", [])]
        spec["files"] = [_file(item, user, mode) for item in own.get("files", [])]
        composed.append(spec)
    return composed


def further(
    services: dict[str, Any], urls: list[dict[str, list[str]]], public_name: str
) -> dict[str, list[dict[str, Any]]]:
    """Return what each service's settings have it ask besides its dependencies.

    Each is another ``service``, or else a ``destination``, which is an address, or None for any machine; ``ports`` is
    empty for any port.
    """
    inside = {name: key for key, s in services.items() for name in (s["alias"], s["container"], s["address"])}
    found: dict[str, list[dict[str, Any]]] = {}
    for key, service in services.items():
        ports: dict[tuple[str | None, str | None], set[int]] = {}
        for url in (url for stated in urls for url in stated.get(key, [])):
            host, port = _endpoint(url)
            other = inside.get(host)
            if other is not None and other != key and other not in service["depends_on"]:
                ports.setdefault((other, None), set()).add(port)
            if host and other is None and host != public_name:
                ports.setdefault((None, _address(host)), set()).add(port)
        found[key] = [
            {"service": other, "destination": destination, "ports": [] if 0 in asked else sorted(asked)}
            for (other, destination), asked in ports.items()
        ]
    return found


def connections(
    services: dict[str, Any], urls: list[dict[str, list[str]]], public_name: str, monitors: list[str]
) -> dict[str, Any]:
    """Return the permitted connections: of services to their dependencies and to endpoints named in settings.

    Each role states the *urls* that its settings have services ask, by the services' keys.
    """
    rules: list[dict[str, Any]] = []
    monitors = [*monitors, *(service["address"] for service in services.values() if service.get("monitors"))]
    besides = further(services, urls, public_name)
    for key, service in services.items():
        source = service["address"]
        for other in service["depends_on"]:
            target = services[other]
            rules.append(_rule(f"{key} to {other}", source, target["address"], target["ports"]))
        for rule in besides[key]:
            other, destination = rule["service"], rule["destination"]
            name = other or destination or "other machines"
            address = services[other]["address"] if other else destination
            rules.append(_rule(f"{key} to {name}", source, address, rule["ports"]))
    for key, service in services.items():
        if service["role"] == "haproxy":
            rules.append(_rule(f"others to {key}", None, service["address"], service["ports"]))
        if "metrics" in service:
            rules += [
                _rule(f"metrics of {key}", monitor, service["address"], [service["metrics"]])
                for monitor in monitors
                if monitor != service["address"]
            ]
    return {"members": [service["address"] for service in services.values()], "rules": rules}


def _rule(comment: str, source: str | None, destination: str | None, ports: Iterable[int]) -> dict[str, Any]:
    return {"comment": comment, "source": source, "destination": destination, "ports": sorted(ports)}


def _endpoint(url: str) -> tuple[str, int]:
    """Return host and port of a URL; port 0 stands for any port, of a bare host (callbacks) and of port `*`."""
    text = re.sub(r"^(\w+://)([^/]*):\*(/|$)", r"//\2\3", url)
    try:
        parts = urlsplit(text if "://" in text or text.startswith("//") else f"//{text}")
        return parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError as exc:
        raise AnsibleFilterError(f"{url!r} is not a URL or a host: {exc}") from exc


def _address(host: str) -> str | None:
    """Return the host if it is an IPv4 address; the address of a name may change."""
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        return None


def health_checks(
    services: dict[str, Any], url: str, ca_path: str, groups: list[str] | None = None
) -> list[dict[str, Any]]:
    """Return the checks of the health module: each container, then each service as its users access it.

    With the *groups* of one of several hosts, only those that can be made there: of its own containers, which it asks
    from inside, since the host itself is not in their network; and on HAProxy's host those of all services by *url*.
    """
    host, port = (*url.removeprefix("https://").split(":"), "443")[:2]
    entry = groups is None or any(services[key]["role"] == "haproxy" for key in groups if key in services)
    checks: list[dict[str, Any]] = []
    for key, service in services.items():
        present = groups is None or key in groups
        if present:
            checks.append(
                {"service": key, "name": "container", "kind": "container", "container": service["container"]}
            )
        here = {"service": key, "host": service["address"], "port": service.get("port")}
        if groups is not None:
            here["container"] = service["container"]
        if service.get("check") == "tls" and entry:
            # As clients see it, who verify the public name.
            checks.append(
                {
                    "service": key,
                    "name": CHECKS["tls"],
                    "kind": "tls",
                    "host": host,
                    "port": int(port),
                    "ca_path": ca_path,
                }
            )
        elif present and service.get("check") not in (None, "tls"):
            checks.append(here | {"name": CHECKS[service["check"]], "kind": service["check"]})
        probe = service.get("probe")
        if probe and entry:
            checks.append(
                {
                    "service": key,
                    "name": "answer",
                    "kind": "vosi" if probe.get("vosi") else "http",
                    "url": url + service.get("route", "") + probe["path"],
                    "status": probe.get("status", 200),
                    "ca_path": ca_path,
                }
            )
    return checks


class FilterModule:
    """Filters over the catalogue."""

    def filters(self) -> dict[str, Any]:
        """Name the filters for Ansible."""
        return {
            "build_recipes": build_recipes,
            "compose_services": compose_services,
            "connections": connections,
            "faults": faults,
            "health_checks": health_checks,
            "resolve_catalogue": resolve_catalogue,
            "select_phases": select_phases,
            "select_services": select_services,
        }
