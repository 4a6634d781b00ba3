# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The network of a deployment, and which connections its containers may open. Private to the collection."""

from __future__ import annotations

import ipaddress
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils import _docker
from ansible_collections.skasrc.cavern.plugins.module_utils._connections import Connections
from ansible_collections.skasrc.cavern.plugins.module_utils._converge import labels
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.engine import Engine
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.errors import ConvergeError
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.report import Report

_REJECT = 0x0200  # RTF_REJECT of linux/route.h
_BRIDGE = "com.docker.network.bridge.name"
_MTU = "com.docker.network.driver.mtu"
_ENCRYPTED = "encrypted"
_PATIENCE = 30.0
"""Seconds in which an overlay is known to all managers, and free of containers that are gone."""


def routes() -> list[tuple[str, ipaddress.IPv4Network]]:
    """Return interfaces of the host and the subnets they lead to, without default and rejecting routes."""
    found = []
    try:
        lines = Path("/proc/net/route").read_text(encoding="ascii").splitlines()[1:]
    except FileNotFoundError:
        return []
    for line in lines:
        interface, destination, _gateway, flags, _ref, _use, _metric, mask = line.split()[:8]
        # The kernel shows blackhole routes without an interface.
        if interface == "*" or int(flags, 16) & _REJECT or int(mask, 16) == 0:
            continue
        address = ipaddress.IPv4Address(struct.pack("<L", int(destination, 16)))
        netmask = ipaddress.IPv4Address(struct.pack("<L", int(mask, 16)))
        found.append((interface, ipaddress.IPv4Network(f"{address}/{netmask}")))
    return found


def overlap(subnet: str, networks: list[dict[str, Any]], name: str, bridge: str) -> str | None:
    """Describe what already uses a part of *subnet*, other than the network *name* with its *bridge*."""
    wanted = ipaddress.IPv4Network(subnet)
    for network in networks:
        if network["Name"] == name:
            continue
        for config in (network.get("IPAM") or {}).get("Config") or []:
            taken = ipaddress.ip_network(config["Subnet"])
            if taken.version == 4 and wanted.overlaps(taken):
                return f"the Docker network {network['Name']} ({taken})"
    for interface, route in routes():
        if interface != bridge and wanted.overlaps(route):
            return f"the host's interface {interface} ({route})"
    return None


class Network:
    """Compare the network of a project with the wanted one, and create, replace or remove it."""

    def __init__(self, engine: Engine, report: Report, wanted: dict[str, Any], check_mode: bool) -> None:
        """Take the wanted network from the module's option `network`."""
        self.engine = engine
        self.report = report
        self.wanted = wanted
        self.check_mode = check_mode
        self.name: str = wanted["name"]
        self.bridge: str = wanted.get("bridge") or self.name
        self.driver: str = wanted.get("driver") or "bridge"
        self.action: str | None = None
        self._former: dict[str, Any] | None = None
        self._connections: Connections | None = None

    def plan(self) -> None:
        """Compare network and packet filter with what is wanted."""
        networks = self.engine.networks()
        named = [item for item in networks if item["Name"] == self.name]
        # An engine may have both, since a local network hides none of a Swarm's. The one that is to go comes first.
        found = next((item for item in sorted(named, key=lambda item: item["Driver"] == self.driver)), None)
        if found is None:
            self._plan_creation(networks)
        elif differing := self._differences(found):
            self._plan_recreation(found, differing)
        if self.wanted.get("connections") is not None:
            self._connections = Connections(self.engine.project, self.wanted, self.wanted["connections"])
            if self.engine.client is not None and self.action is None:
                self._connections.check_place()
            self._plan_connections(self._connections)

    def _plan_creation(self, networks: list[dict[str, Any]]) -> None:
        subnet = self.wanted["subnet"]
        taken = overlap(subnet, networks, self.name, self.bridge)
        if taken:
            raise ConvergeError(
                f"network {self.name}: the subnet {subnet} overlaps {taken}; "
                "choose another with deployment_network.subnet"
            )
        self.action = "create"
        self.report.note("network", self.name, "create", ["missing"])
        self.report.diff(self.name, "", f"{self.wanted}\n")

    def _differences(self, found: dict[str, Any]) -> list[str]:
        config = ((found.get("IPAM") or {}).get("Config") or [{}])[0]
        options = found.get("Options") or {}
        pairs = [
            ("driver", found.get("Driver"), self.driver),
            ("subnet", config.get("Subnet"), self.wanted["subnet"]),
        ]
        if self.wanted.get("gateway"):
            pairs.append(("gateway", config.get("Gateway"), self.wanted["gateway"]))
        if self.wanted.get("mtu"):
            pairs.append(("mtu", options.get(_MTU), str(self.wanted["mtu"])))
        if self.wanted.get("ip_range"):
            pairs.append(("ip_range", config.get("IPRange"), self.wanted["ip_range"]))
        if self.driver == "overlay":
            pairs.append(("attachable", bool(found.get("Attachable")), True))
            pairs.append(("encrypted", _ENCRYPTED in options, bool(self.wanted.get("encrypted"))))
        return [f"{name}: {before} -> {after}" for name, before, after in pairs if before != after]

    def _plan_recreation(self, found: dict[str, Any], differing: list[str]) -> None:
        if not self.engine.owns(found.get("Labels")):
            raise ConvergeError(
                f"network {self.name} exists, does not belong to this deployment and differs ({'; '.join(differing)}); "
                "remove it or choose another name with deployment_network.name"
            )
        self.action = "recreate"
        self._former = self.engine.network(found["Id"])
        foreign = self._foreign_members(self._former)
        if foreign:
            raise ConvergeError(
                f"network {self.name} must change ({'; '.join(differing)}), but {', '.join(foreign)} "
                "from elsewhere use it; disconnect them first"
            )
        self.report.note("network", self.name, "recreate", differing)

    def _foreign_members(self, inspect: dict[str, Any] | None) -> list[str]:
        """Return the names of containers in the network that are not of the project."""
        ours = {container["Id"] for container in self.engine.containers()}
        return sorted(member["Name"] for key, member in _containers(inspect).items() if key not in ours)

    def _plan_connections(self, connections: Connections) -> None:
        connections.plan()
        self.report.actions += connections.actions
        self.report.diffs += connections.diffs

    def members(self) -> list[dict[str, Any]]:
        """Return the endpoints of the network's containers, none where the network is still to be created."""
        inspect = None if self.action else self.engine.network(self.name)
        return list(_containers(inspect).values())

    def apply(self) -> None:
        """Carry out what `plan` found."""
        if self.action:
            self._create()
        if self._connections:
            self._connections.apply()

    def _create(self) -> None:
        if self._former is not None:
            for container in self.engine.containers():
                self.engine.remove(container["Id"])
            self._delete(self._former)
        if not self.wanted.get("creates", True):
            _await(self._is_known, f"network {self.name}: the host that creates it has not done so")
            return
        types = _docker.docker.types
        pool = types.IPAMPool(
            subnet=self.wanted["subnet"],
            iprange=self.wanted.get("ip_range"),
            gateway=self.wanted.get("gateway"),
        )
        overlay = self.driver == "overlay"
        options = {} if overlay else {_BRIDGE: self.bridge}
        if self.wanted.get("mtu"):
            options[_MTU] = str(self.wanted["mtu"])
        if overlay and self.wanted.get("encrypted"):
            options[_ENCRYPTED] = ""
        try:
            self.engine.client.create_network(
                self.name,
                driver=self.driver,
                ipam=types.IPAMConfig(pool_configs=[pool]),
                options=options,
                labels={labels.PROJECT: self.engine.project},
                check_duplicate=True,
                **({"attachable": True, "scope": "swarm"} if overlay else {}),
            )
        except _docker.APIError as error:
            if not overlay:
                raise
            raise ConvergeError(
                f"network {self.name}: this engine cannot make the overlay: {_docker.explain(error)}"
            ) from error

    def _is_known(self) -> bool:
        return any(
            item["Name"] == self.name and item["Driver"] == self.driver for item in self.engine.networks()
        )

    def _delete(self, network: dict[str, Any]) -> None:
        """Delete a network; an overlay only when the managers know of no container in it. Raises APIError."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                _docker.find(self.engine.client.remove_network, network["Id"])
                return
            except _docker.APIError:
                if network.get("Driver") != "overlay" or time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def remove(self) -> None:
        """Remove the network, if it is the project's, and then the packet filter."""
        found = self.engine.network(self.name)
        if found is not None and self.engine.owns(found.get("Labels")):
            self._remove_network(found)
        connections = Connections(self.engine.project, self.wanted, None)
        self._plan_connections(connections)
        if not self.check_mode:
            connections.apply()

    def _remove_network(self, found: dict[str, Any]) -> None:
        foreign = self._foreign_members(found)
        if foreign:
            raise ConvergeError(f"network {self.name}: {', '.join(foreign)} from elsewhere still use it")
        self.report.note("network", self.name, "remove", ["asked for"])
        if self.check_mode:
            return
        try:
            self._delete(found)
        except _docker.APIError as error:
            # The Engine can lose count of endpoints when containers die while they are attached.
            raise ConvergeError(
                f"network {self.name} cannot be removed: {_docker.explain(error)}; "
                "if nothing uses it, restart Docker Engine and run this again"
            ) from error


def _containers(inspect: dict[str, Any] | None) -> dict[str, Any]:
    """Return the endpoints of a network's containers by container, without those that Swarm has itself."""
    members = (inspect or {}).get("Containers") or {}
    return {key: member for key, member in members.items() if not key.startswith("lb-")}


def _await(condition: Callable[[], bool], otherwise: str) -> None:
    """Wait until a condition holds. Raises ConvergeError."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise ConvergeError(f"{otherwise} within {_PATIENCE:g} s")
        time.sleep(0.2)
