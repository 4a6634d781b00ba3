# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Docker Engine as a node of a Swarm, which gives several engines one network. Private to the collection.

Every node is a manager: an engine that is not one neither knows nor can join the network of containers that are no
services of the Swarm, unless a manager answers.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import ipaddress
import shutil
import socket
import struct
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils import _engine
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.labels import PROJECT, SERVICE

PORT = 2377
GOSSIP_PORT = 7946
PORTS = "TCP 2377, TCP and UDP 7946, and UDP 4789"
"""What must be open between the hosts."""
_SIOCGIFADDR, _SIOCGIFMTU = 0x8915, 0x8921
_SETTING = "swarm_address"
# s; the Engine gives up a join after 20.
_PATIENCE = 60.0
_REMOVAL = 30.0


class SwarmError(Exception):
    """The engine cannot be what is wanted of it; the message says why and what to do."""


class _NotCounted(SwarmError):
    """The managers do not count the node as one of them, although it has been."""


@dataclass(frozen=True)
class Place:
    """Address of a host among the others, and the largest packet, in bytes, that its interface sends."""

    address: str
    mtu: int | None


def _ask_interface(name: str, request: int) -> bytes | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            return fcntl.ioctl(probe, request, struct.pack("256s", name.encode()[:15]))[16:24]
        except OSError:
            return None


def _interface_address(name: str) -> str | None:
    answer = _ask_interface(name, _SIOCGIFADDR)
    return None if answer is None else socket.inet_ntoa(answer[4:8])


def _interface_mtu(name: str) -> int | None:
    answer = _ask_interface(name, _SIOCGIFMTU)
    return None if answer is None else int(struct.unpack("i", answer[:4])[0])


def _is_here(address: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
        return True


def _route_source() -> str:
    """Return the address from which this host reaches others; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # RFC 5737
        except OSError as error:
            raise SwarmError(
                f"{_SETTING}: this host has no default route, so name the address or the interface "
                "by which the other hosts reach it"
            ) from error
        return str(probe.getsockname()[0])


def _named(name: str) -> str:
    """Return the address of an interface, or the one of a host's name that is of this host."""
    found = _interface_address(name)
    if found:
        return found
    try:
        entries = socket.getaddrinfo(name, None, socket.AF_INET)
    except OSError as error:
        raise SwarmError(
            f"{_SETTING}: {name} is neither an interface with an IPv4 address nor a known name"
        ) from error
    addresses = sorted({str(entry[4][0]) for entry in entries})
    here = [address for address in addresses if not address.startswith("127.") and _is_here(address)]
    if not here:
        raise SwarmError(
            f"{_SETTING}: {name} is {', '.join(addresses)}, none of which other hosts reach this one at; "
            "name its address or its interface"
        )
    return here[0]


def place(wanted: str) -> Place:
    """Return where the other hosts reach this one: at an address, an interface, a name, or by the default route.

    Raises SwarmError.
    """
    try:
        address = str(ipaddress.IPv4Address(wanted))
    except ValueError:
        address = _named(wanted) if wanted else _route_source()
    if ipaddress.IPv4Address(address).is_loopback:
        raise SwarmError(f"{_SETTING}: {address} is this host to itself alone; name one that others reach")
    if not _is_here(address):
        raise SwarmError(
            f"{_SETTING}: no interface of this host has the address {address}; name one of its own, or an interface"
        )
    names = [name for _index, name in socket.if_nameindex() if _interface_address(name) == address]
    return Place(address, _interface_mtu(names[0]) if names else None)


def has_ipsec() -> bool | None:
    """Whether this host's kernel encrypts packets as the overlay network does; None if that cannot be asked."""
    programs = [shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin") for name in ("unshare", "ip")]
    if None in programs:
        return None
    state = "xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 1 mode transport aead rfc4106(gcm(aes))"
    done = subprocess.run(
        [str(programs[0]), "--net", str(programs[1]), *state.split(), "0x" + 20 * "01", "64"],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


class Node:
    """The engine behind a socket. Its methods raise SwarmError, and EngineError where this user may not talk to it."""

    def __init__(self, path: str, project: str) -> None:
        self.path = path
        self.project = project

    def _call(self, method: str, target: str, document: Any = None) -> Any:
        answer = _engine.request(self.path, method, target, document, timeout=_PATIENCE)
        if answer is None:
            raise SwarmError(f"Docker Engine does not answer at {self.path}")
        status, found = answer
        if status >= http.client.BAD_REQUEST:
            text = explain(found)
            raise (_NotCounted if "raft memberlist" in text else SwarmError)(text)
        return found

    def describe(self, address: str, network: str, encrypted: bool) -> dict[str, Any] | None:
        """Return what a deployment on several hosts must know of this one; None where no engine answers."""
        if _engine.ask(self.path) is None:
            return None
        information = self._call("GET", "/info")
        here = place(address)
        return {
            "engine": information["ID"],
            "version": information["ServerVersion"],
            "architecture": information["Architecture"],
            "address": here.address,
            "mtu": here.mtu,
            "ipsec": has_ipsec() if encrypted else None,
            "swarm": self._swarm(information.get("Swarm") or {}),
            "networks": [_network(found) for found in self._networks() if found["Name"] == network],
            "containers": [
                _container(found, network) for found in self._call("GET", "/containers/json?all=1")
            ],
        }

    def _swarm(self, swarm: dict[str, Any]) -> dict[str, Any]:
        cluster = swarm.get("Cluster") or {}
        labels = (cluster.get("Spec") or {}).get("Labels") or {}
        manager = bool(swarm.get("ControlAvailable"))
        return {
            "state": swarm.get("LocalNodeState") or "inactive",
            "address": swarm.get("NodeAddr") or "",
            "manager": manager,
            "cluster": cluster.get("ID") or "",
            "project": labels.get(PROJECT) or "",
            "problem": self._problem() if manager else swarm.get("Error") or "",
        }

    def _problem(self) -> str:
        """Return why the managers cannot decide anything, nothing if they can."""
        try:
            self._call("GET", "/nodes")
        except SwarmError as error:
            return str(error)
        return ""

    def _networks(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._call("GET", "/networks")
        return found

    def is_member(self) -> bool:
        """Whether it is a node of a Swarm."""
        return bool(self._swarm(self._call("GET", "/info").get("Swarm") or {})["state"] == "active")

    def identity(self) -> str:
        """Return its identifier as a node, which it knows without any manager."""
        return str((self._call("GET", "/info").get("Swarm") or {}).get("NodeID") or "")

    def problem(self) -> str:
        """Return why its Swarm cannot tell anything, nothing if it can or there is none."""
        return str(self._swarm(self._call("GET", "/info").get("Swarm") or {})["problem"])

    def token(self) -> str:
        """Return the secret by which another engine joins as a manager."""
        return str(self._call("GET", "/swarm")["JoinTokens"]["Manager"])

    def forget(self, addresses: list[str]) -> list[str]:
        """Remove the nodes at these addresses, and return those; dead managers count when managers decide."""
        forgotten = []
        for node in self._call("GET", "/nodes"):
            address = (node.get("Status") or {}).get("Addr") or ""
            if address not in addresses:
                continue
            self._remove(node)
            forgotten.append(address)
        return forgotten

    def _remove(self, node: dict[str, Any]) -> None:
        target = f"/nodes/{node['ID']}"
        if node["Spec"]["Role"] == "manager":
            with contextlib.suppress(_NotCounted):
                update = f"{target}/update?version={node['Version']['Index']}"
                self._call("POST", update, node["Spec"] | {"Role": "worker"})
        deadline = time.monotonic() + _REMOVAL
        while True:
            try:
                self._call("DELETE", f"{target}?force=1")
                return
            except SwarmError:
                # Its demotion takes effect a moment later.
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.2)

    def init(self, address: str) -> None:
        """Begin a Swarm, which carries the project's name."""
        spec = {"Labels": {PROJECT: self.project}}
        document = {"ListenAddr": f"{address}:{PORT}", "AdvertiseAddr": address, "Spec": spec}
        self._call("POST", "/swarm/init", document)

    def join(self, address: str, manager: str, token: str) -> None:
        """Join the Swarm of the manager at an address, and wait until this node is a manager too."""
        for port in (PORT, GOSSIP_PORT):
            try:
                socket.create_connection((manager, port), 5).close()
            except OSError as error:
                raise SwarmError(
                    f"{manager}:{port} cannot be reached from {address} ({error}); open {PORTS} between the hosts"
                ) from error
        if self._call("GET", "/info")["Swarm"]["LocalNodeState"] != "inactive":
            # An attempt that failed.
            self._call("POST", "/swarm/leave?force=1")
        document = {
            "ListenAddr": f"{address}:{PORT}",
            "AdvertiseAddr": address,
            "RemoteAddrs": [f"{manager}:{PORT}"],
            "JoinToken": token,
        }
        try:
            self._call("POST", "/swarm/join", document)
        except SwarmError as error:
            raise SwarmError(
                f"{address} does not join the Swarm of {manager}: {error}; open {PORTS} between the hosts, "
                "and set their clocks"
            ) from error
        self._await(lambda: bool(self._call("GET", "/info")["Swarm"].get("ControlAvailable")), "a manager")

    @staticmethod
    def _await(condition: Any, state: str) -> None:
        deadline, pause = time.monotonic() + 30, 0.1
        while not condition():
            if time.monotonic() > deadline:
                raise SwarmError(f"the node is not {state} after 30 s")
            time.sleep(pause)
            pause = min(1.0, pause * 1.5)

    def reason_to_stay(self) -> str | None:
        """Return why the engine must not leave its Swarm, None if it is the project's and nobody else needs it."""
        swarm = self._swarm(self._call("GET", "/info").get("Swarm") or {})
        if swarm["project"] != self.project:
            return "the Swarm is not this deployment's"
        others = [
            found["Name"]
            for found in self._networks()
            if found.get("Scope") == "swarm" and not found.get("Ingress")
        ]
        return f"it has the networks {', '.join(sorted(others))}" if others else None

    def leave(self) -> None:
        """Leave the Swarm, and remove the local network that it had, unless somebody's containers are in it."""
        self._call("POST", "/swarm/leave?force=1")
        with contextlib.suppress(SwarmError):
            self._call("DELETE", "/networks/docker_gwbridge")


def explain(found: Any) -> str:
    """Return the Engine's message, without the words around it that its parts add."""
    text = str(found.get("message") if isinstance(found, dict) else found)
    return text.removeprefix("rpc error: ").strip()


def _network(found: dict[str, Any]) -> dict[str, Any]:
    config = ((found.get("IPAM") or {}).get("Config") or [{}])[0]
    return {
        "driver": found.get("Driver") or "",
        "scope": found.get("Scope") or "",
        "attachable": bool(found.get("Attachable")),
        "project": (found.get("Labels") or {}).get(PROJECT) or "",
        "subnet": config.get("Subnet") or "",
        "ip_range": config.get("IPRange") or "",
    }


def _container(found: dict[str, Any], network: str) -> dict[str, Any]:
    endpoint = ((found.get("NetworkSettings") or {}).get("Networks") or {}).get(network) or {}
    wanted = (endpoint.get("IPAMConfig") or {}).get("IPv4Address")
    labels = found.get("Labels") or {}
    return {
        "name": str(found["Names"][0]).lstrip("/"),
        "project": labels.get(PROJECT) or "",
        "service": labels.get(SERVICE) or "",
        "address": endpoint.get("IPAddress") or wanted or "",
    }
