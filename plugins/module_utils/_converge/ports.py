# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses and ports that new containers need, and who has them. Private to the collection."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils._converge.engine import Engine
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.errors import ConvergeError
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.service import Service


def port_in_use(address: str, port: int) -> bool:
    """Whether something on this host listens on that address and port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address if address not in ("", "0.0.0.0") else "0.0.0.0", port))
        except OSError:
            return True
        return False


def check(
    services: Iterable[Service],
    members: list[dict[str, Any]],
    ours: set[str],
    engine: Engine,
    check_mode: bool,
) -> None:
    """Refuse a service whose address or port is taken: the Engine's own errors say neither where nor by whom.

    *members* are the endpoints of the network's containers, *ours* the names of containers that this run replaces
    or removes. Raises ConvergeError.
    """
    for service in services:
        if service.action not in ("create", "recreate", "start"):
            continue
        _check_address(service, members, ours)
        if not check_mode and not service.state.get("Running"):
            _check_ports(service, ours, engine)


def _check_address(service: Service, members: list[dict[str, Any]], ours: set[str]) -> None:
    for member in members:
        address = member["IPv4Address"].partition("/")[0]
        if address == service.spec["address"] and member["Name"] not in ours:
            raise ConvergeError(
                f"{service.name}: the address {address} is taken by the container {member['Name']}"
            )


def _check_ports(service: Service, ours: set[str], engine: Engine) -> None:
    for port in service.spec.get("ports") or []:
        address, number = port.get("host_address") or "0.0.0.0", port["host_port"]
        if not port_in_use(address, number):
            continue
        publisher = engine.publisher(number)
        if publisher not in ours:
            raise ConvergeError(
                f"{service.name}: port {number} of {address} is taken by "
                f"{f'the container {publisher}' if publisher else 'a process of the host'}; "
                "stop that, or change deployment_https_port, deployment_http_port or deployment_publish_address"
            )
