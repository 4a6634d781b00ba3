# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A deployment on several hosts: the network that spans them, what cannot work there, and how their engines join.

What an inventory states is checked by ``placement_faults``, before anything is asked of a host; what the hosts answered
to the module swarm_info, by ``swarm_faults``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

from ansible.errors import AnsibleFilterError

Host = dict[str, Any]

# Services of which several may run, each on a host of its own.
SEVERAL = ("cavern", "celery_worker", "core")
# Services whose files are in a directory of their host, and where.
FILES = {"cavern": "deployment_data_dir/cavern_data", "rse_web": "deployment_data_dir/rse_data"}
# Smallest and usual part of a subnet, as the length of its prefix, that Swarm has for addresses of its own.
_LARGEST_PART = 24
_SMALLEST_PART = 30
# Between the numbers of a service's instances; the catalogue's own are smaller.
_STEP = 64


def _part(subnet: ipaddress.IPv4Network) -> ipaddress.IPv4Network:
    """Return the end of a subnet, a quarter of it and at most 256 addresses."""
    prefix = max(_LARGEST_PART, subnet.prefixlen + 2)
    if prefix > _SMALLEST_PART:
        raise AnsibleFilterError(
            f"deployment_network.subnet: {subnet} is too small for several hosts, each of which takes "
            "an address of its "
            f"own there: give one of at most /{_SMALLEST_PART - 2}"
        )
    return list(subnet.subnets(new_prefix=prefix))[-1]


def place_services(
    services: dict[str, Any], host: str, groups: dict[str, list[str]], subnet: str
) -> dict[str, Any]:
    """Return the services as one *host* has them: each further host of a service runs one under a name of its own.

    Those of which several run have all of them as ``instances``, with ``host``, ``container``, ``alias``, ``address``
    and ``source``.
    """
    placed = {}
    taken = {service["address"]: key for key, service in services.items()}
    for key, service in services.items():
        where = groups.get(key) or []
        if key not in SEVERAL or len(where) < 2:
            placed[key] = service
            continue
        instances = [
            _instance(service, where, index, ipaddress.IPv4Network(subnet)) for index in range(len(where))
        ]
        for one in instances[1:]:
            other = taken.setdefault(one["address"], key)
            if other != key:
                raise AnsibleFilterError(
                    f"deployment_service_overrides.{other}.number: {one['address']} is the address of "
                    f"{key} on {one['host']}; "
                    "choose another"
                )
        own = instances[where.index(host) if host in where else 0]
        placed[key] = service | {name: own[name] for name in own if name != "host"} | {"instances": instances}
    return placed


def _instance(service: dict[str, Any], where: list[str], index: int, subnet: ipaddress.IPv4Network) -> Host:
    number = int(service["number"]) + _STEP * index
    if number >= subnet.num_addresses - 1:
        raise AnsibleFilterError(
            f"deployment_network.subnet: {subnet} has no address {number} for {service['key']} on "
            f"{where[index]}; give a "
            f"larger one, or {service['key']} fewer hosts"
        )
    suffix = f"-{index + 1}" if index else ""
    address = str(subnet[number])
    return {
        "host": where[index],
        "container": service["container"] + suffix,
        "alias": service["alias"] + suffix,
        "address": address,
        "source": address,
    }


def spread_network(network: dict[str, Any], services: dict[str, Any], mtus: list[int]) -> dict[str, Any]:
    """Return the network as several hosts share it: an overlay, with a range for the addresses that Swarm chooses."""
    subnet = ipaddress.IPv4Network(network["subnet"])
    text = network.get("ip_range")
    try:
        part = ipaddress.IPv4Network(text) if text else _part(subnet)
    except ValueError as error:
        raise AnsibleFilterError(
            f"deployment_network.ip_range: {text!r} is not a range such as {_part(subnet)} ({error})"
        ) from error
    if not part.subnet_of(subnet):
        raise AnsibleFilterError(
            f"deployment_network.ip_range: {part} is no part of {subnet}, deployment_network.subnet"
        )
    for key, service in services.items():
        for one in service.get("instances") or [service]:
            if ipaddress.IPv4Address(one["address"]) in part:
                raise AnsibleFilterError(
                    f"deployment_network.ip_range: {part}, from which Swarm chooses, has the address "
                    f"{one['address']} of "
                    f"{key}: choose another range, or another deployment_service_overrides.{key}.number"
                )
    smallest = min(mtus, default=1500)
    own = {"mtu": smallest} if not network.get("mtu") and smallest < 1500 else {}
    return network | own | {"driver": "overlay", "ip_range": str(part)}


def placement_faults(
    services: dict[str, Any],
    groups: dict[str, list[str]],
    connections: dict[str, str],
    network: dict[str, Any],
    restricted: bool,
) -> list[str]:
    """Return what keeps a deployment from standing on several hosts as the inventory's *groups* have it.

    *connections* has of each host by what Ansible reaches it.
    """
    wrong = []
    if network.get("encrypted") is None:
        wrong.append(
            "deployment_network.encrypted: services talk plain HTTP from host to host, with tokens and files: set it "
            "to true, which has Docker encrypt that (IPsec), or to false, where nobody else is in the network between "
            "the hosts"
        )
    if restricted:
        wrong.append(
            "deployment_restrict_connections: what containers open in the network of several hosts passes no bridge "
            "of a host, where it could be restricted: set it to false, and let nobody else into the network between "
            "the hosts"
        )
    for host, connection in connections.items():
        if connection == "skasrc.cavern.engine":
            wrong.append(
                f"{host}: its ansible_connection is {connection}, but such an engine (Docker Desktop, rootless "
                "Docker) has no network with other hosts; take Docker Engine on Linux"
            )
    return wrong + [fault for key in services for fault in _misplaced(key, list(connections), groups)]


def _misplaced(key: str, hosts: list[str], groups: dict[str, list[str]]) -> Iterator[str]:
    where = groups.get(key) or []
    if not where:
        yield (
            f"{key}: the inventory has no group of this name with a host in it, so that nobody would run it; put "
            "services.yml beside hosts.yml (inventory/local has one), or name its host"
        )
    for host in where:
        if host not in hosts:
            yield f"{key}: its host {host} is not in the group deployment; put that group below deployment"
    if len(where) > 1 and key not in SEVERAL:
        yield f"{key}: it is on {', '.join(where)}, but can be on one host alone; name one in the group {key}"


def swarm_faults(
    found: dict[str, Host | None],
    services: dict[str, Any],
    groups: dict[str, list[str]],
    network: dict[str, Any],
    project: str,
    image_source: str,
    secrets: dict[str, str],
) -> list[str]:
    """Return what keeps the engines that were *found* on the hosts from having one network.

    *secrets* has of each host the file of its secrets.
    """
    hosts = {host: info for host, info in found.items() if info is not None}
    wrong = [
        *_unlike(hosts, image_source),
        *_strangers(hosts, project),
        *_unfit_networks(hosts, network, project),
        *_taken(hosts, services, project),
        *_left_behind(hosts, services, groups, project),
    ]
    if len(set(secrets.values())) > 1:
        wrong.append(
            f"secrets_file: the hosts have {' and '.join(sorted(set(secrets.values())))}; give all of them the same "
            "file, on the machine that runs Ansible, as a variable of the group deployment"
        )
    if network.get("encrypted"):
        wrong += [
            f"{host}: its kernel does not encrypt packets (IPsec, ESP with AES-GCM): set "
            "deployment_network.encrypted to "
            "false, where nobody else is in the network between the hosts"
            for host, info in hosts.items()
            if info["ipsec"] is False
        ]
    return wrong


def _unlike(hosts: dict[str, Host], image_source: str) -> Iterator[str]:
    """Describe engines that are one, or that do not go together."""
    first = next(iter(hosts), "")
    engines: dict[str, str] = {}
    for host, info in hosts.items():
        other = engines.setdefault(info["engine"], host)
        if other != host:
            yield f"{host}: its Docker Engine is that of {other}; name each machine once"
        if _major(info) != _major(hosts[first]):
            yield (
                f"{host}: it has Docker Engine {info['version']}, and {first} {hosts[first]['version']}; have the same "
                "major version on all hosts"
            )
        if image_source == "load" and info["architecture"] != hosts[first]["architecture"]:
            yield (
                f"{host}: it is {info['architecture']}, and {first} {hosts[first]['architecture']}, but images_bundle "
                "has images of one; set deployment_image_source to build or pull"
            )


def _major(host: Host) -> str:
    return str(host["version"]).partition(".")[0]


def _cluster(hosts: dict[str, Host], project: str) -> str:
    """Return the Swarm that the hosts are to have in common, empty where there is none yet."""
    known = [info["swarm"] for info in hosts.values() if info["swarm"]["cluster"]]
    ours = [swarm["cluster"] for swarm in known if swarm["project"] == project]
    first = next(iter(hosts.values()))["swarm"]["cluster"] if hosts else ""
    return str(next(iter(ours), first))


def _strangers(hosts: dict[str, Host], project: str) -> Iterator[str]:
    """Describe engines in a Swarm that is none for this deployment."""
    cluster = _cluster(hosts, project)
    for host, info in hosts.items():
        swarm = info["swarm"]
        if swarm["state"] == "locked":
            yield f"{host}: its Swarm is locked; unlock it there: docker swarm unlock"
        elif swarm["state"] != "active":
            continue
        elif not swarm["manager"]:
            yield (
                f"{host}: its engine is a worker of a Swarm, and must be a manager: docker node "
                "promote, on a manager of "
                "it; or, if that is another Swarm, docker swarm leave on this host"
            )
        elif swarm["cluster"] != cluster:
            yield (
                f"{host}: its engine is in a Swarm ({swarm['cluster']}) that is not this "
                "deployment's; docker swarm leave "
                "--force there, if nothing needs it, or give the deployment another host"
            )
        elif swarm["problem"]:
            yield (
                f"{host}: more than half of the Swarm's managers are away, so that nothing can start "
                f"({swarm['problem']}); "
                "start the other hosts. If they are lost for good: docker swarm init --force-new-cluster "
                f"--advertise-addr {swarm['address']}, on this host"
            )


def _unfit_networks(hosts: dict[str, Host], network: dict[str, Any], project: str) -> Iterator[str]:
    """Describe networks of the wanted name that are somebody else's; ours are made anew where they differ."""
    name = network["name"]
    for host, info in hosts.items():
        for found in info["networks"]:
            if found["project"] == project:
                continue
            if (found["driver"], found["scope"]) != ("overlay", "swarm"):
                yield (
                    f"{host}: the network {name} there is a {found['driver']} of this host alone, and "
                    "not the deployment's; "
                    "remove it, or choose another deployment_network.name"
                )
            elif not found["attachable"]:
                yield f"{host}: the overlay {name} is not attachable; make it with docker network create --attachable"
            elif found["subnet"] != network["subnet"]:
                yield (
                    f"{host}: the overlay {name} has the subnet {found['subnet']}; give that to "
                    "deployment_network.subnet, "
                    "or choose another deployment_network.name"
                )
            elif found["ip_range"] != network["ip_range"]:
                yield (
                    f"{host}: the overlay {name} has the range "
                    f"{found['ip_range'] or 'of its whole subnet'} for addresses "
                    f"that Swarm chooses; make it with --ip-range {network['ip_range']}, or give its range to "
                    "deployment_network.ip_range"
                )


def _instances(services: dict[str, Any]) -> Iterator[tuple[str, Host]]:
    for key, service in services.items():
        for one in service.get("instances") or [service]:
            yield key, one


def _taken(hosts: dict[str, Host], services: dict[str, Any], project: str) -> Iterator[str]:
    """Describe containers that have the address of a service and are none of this deployment."""
    wanted = {one["address"]: key for key, one in _instances(services)}
    for host, info in hosts.items():
        for container in info["containers"]:
            key = wanted.get(container["address"])
            if key is not None and container["project"] != project:
                yield (
                    f"{host}: the container {container['name']} there has the address {container['address']} of {key}; "
                    f"remove it, or choose another deployment_service_overrides.{key}.number"
                )


def _left_behind(
    hosts: dict[str, Host], services: dict[str, Any], groups: dict[str, list[str]], project: str
) -> Iterator[str]:
    """Describe services that are to run on another host than that which has their data."""
    for host, info in hosts.items():
        for container in info["containers"]:
            key = container["service"]
            if container["project"] != project or key not in services or host in groups.get(key, []):
                continue
            place = "a volume of its engine" if services[key].get("state") else FILES.get(key)
            if place is not None:
                yield (
                    f"{key}: it is to run on {', '.join(groups.get(key, []))}, but its data is on "
                    f"{host}, in {place}; name "
                    f'{host} in the group {key}. To move it: make backup, make purge ARGS="-e purge_data=true", change '
                    "the inventory, put each part of the backup where its service is, and make restore"
                )


def swarm_steps(found: dict[str, Host | None]) -> dict[str, Any]:
    """Return the host that begins a Swarm, the one that the others join, those that do, and their addresses."""
    hosts = {host: info for host, info in found.items() if info is not None}
    outside = [host for host, info in hosts.items() if info["swarm"]["state"] != "active"]
    members = [host for host in hosts if host not in outside]
    first = next(iter(members or outside), "")
    joining = [host for host in outside if host != first]
    return {
        "begins": first if first in outside else "",
        "manager": first,
        "address": (hosts[first]["swarm"]["address"] or hosts[first]["address"]) if first else "",
        "joining": joining,
        # An engine that was a node before, and is none now, is still counted.
        "forget": [hosts[host]["address"] for host in joining],
    }


def status_rows(
    services: dict[str, Any],
    groups: dict[str, list[str]],
    checks: dict[str, list[dict[str, Any]]],
    containers: dict[str, dict[str, Any]],
) -> list[dict[str, Any]]:
    """Return a row for each service, or each of its instances, with what the hosts found: *checks*, and *containers* by
    service. A host that found nothing does not answer."""
    rows = []
    for key, service in services.items():
        for index, one in enumerate(service.get("instances") or [service]):
            host = one.get("host") or next(iter(groups.get(key, [])), "")
            # Checks that HAProxy's host makes of what clients see are those of the service, not of an instance.
            hosts = (
                [host]
                if index
                else [name for name in checks if name == host or name not in groups.get(key, [])]
            )
            made = [check for name in hosts for check in checks.get(name, []) if check["service"] == key]
            if host not in checks:
                made.append(_silent(key, host))
            rows.append(
                {
                    "key": key,
                    "name": f"{key}@{host}" if index else key,
                    "host": host,
                    "container": one["container"],
                    "address": one["address"],
                    "checks": made,
                    "found": containers.get(host, {}).get(key, {}),
                }
            )
    return rows


def _silent(key: str, host: str) -> dict[str, Any]:
    where = f"the host {host} does not answer" if host else "no host of the inventory runs it"
    return {"service": key, "name": "host", "kind": "host", "ok": False, "message": where}


class FilterModule:
    """Filters for a deployment on several hosts."""

    def filters(self) -> dict[str, Any]:
        """Name the filters for Ansible."""
        return {
            "place_services": place_services,
            "placement_faults": placement_faults,
            "spread_network": spread_network,
            "status_rows": status_rows,
            "swarm_faults": swarm_faults,
            "swarm_steps": swarm_steps,
        }
