# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who already uses a subnet or a port of the host. Private to the collection."""

from __future__ import annotations

import ipaddress
import socket
import struct
from pathlib import Path
from typing import Any

_REJECT = 0x0200


def routes() -> list[tuple[str, ipaddress.IPv4Network]]:
    """Interfaces of the host and the subnets they lead to; the default route and refused ones are left out."""
    found = []
    try:
        lines = Path("/proc/net/route").read_text(encoding="ascii").splitlines()[1:]
    except FileNotFoundError:
        return []
    for line in lines:
        interface, destination, _gateway, flags, _ref, _use, _metric, mask = line.split()[:8]
        # Routes that refuse or swallow packets lead nowhere; the kernel shows the latter without an interface.
        if interface == "*" or int(flags, 16) & _REJECT or int(mask, 16) == 0:
            continue
        address = ipaddress.IPv4Address(struct.pack("<L", int(destination, 16)))
        netmask = ipaddress.IPv4Address(struct.pack("<L", int(mask, 16)))
        found.append((interface, ipaddress.IPv4Network(f"{address}/{netmask}")))
    return found


def overlap(subnet: str, networks: list[dict[str, Any]], name: str, bridge: str) -> str | None:
    """Who stands in the way of a new network on *subnet*, or None."""
    wanted = ipaddress.IPv4Network(subnet)
    bridges = {bridge}
    for network in networks:
        if network["Name"] == name:
            continue
        for config in (network.get("IPAM") or {}).get("Config") or []:
            taken = ipaddress.ip_network(config["Subnet"])
            if taken.version == 4 and wanted.overlaps(taken):
                return f"the Docker network {network['Name']} ({taken})"
    for interface, taken in routes():
        if interface not in bridges and wanted.overlaps(taken):
            return f"the host's interface {interface} ({taken})"
    return None


def port_in_use(address: str, port: int) -> bool:
    """Whether something on this host listens on that address and port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address if address not in ("", "0.0.0.0") else "0.0.0.0", port))
        except OSError:
            return True
        return False
