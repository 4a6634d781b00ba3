# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may talk to whom, as policies of the network. Private to the collection.

Each service may be asked by those that depend on it alone, and ask those and what its settings name elsewhere. The
policies are told of the pods' own ports, on which a service's traffic arrives.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes.names import (
    NAME,
    metadata,
    selector,
)
from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes.template import Document, Part, Value
from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes.workload import Workload

ENABLED = "networkPolicy.enabled"
MONITORS = "networkPolicy.monitors"
_ENTRY = "networkPolicy.entry"
_DESTINATIONS = "networkPolicy.destinations"
SMOKE = "smoke"
"""Name of the smoke test's objects."""
# What clouds tell machines of themselves, credentials among it (RFC 3927).
_LINK_LOCAL = "169.254.0.0/16"
_OUTSIDE = {"ipBlock": {"cidr": "0.0.0.0/0", "except": [_LINK_LOCAL, Value("podNetwork")]}}
"""Hosts outside of the cluster."""
_ANYWHERE = {"ipBlock": {"cidr": "0.0.0.0/0", "except": [_LINK_LOCAL]}}
"""Hosts that may be in the cluster too: services that the site has already."""


def _pods(name: str) -> Document:
    return {"podSelector": {"matchLabels": selector(name)}}


def _ports(ports: list[int]) -> Document:
    return {"ports": [{"protocol": "TCP", "port": port} for port in sorted(ports)]} if ports else {}


NAMES = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}
"""Who asks for names may ask anybody: nodes may have resolvers of their own."""


def policy(name: str, spec: Document, **more: Any) -> Document:
    """Return a policy of the network."""
    meta = metadata(name, **more)
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": spec}


def _asked(key: str, catalogue: Document, further: dict[str, list[Document]]) -> dict[str, list[int]]:
    """Return the ports that a service asks of others, by their keys; none of those that serve nobody."""
    found = {other: list(catalogue[other]["ports"]) for other in catalogue[key]["depends_on"]}
    found |= {rule["service"]: rule["ports"] for rule in further.get(key, []) if rule["service"] is not None}
    return {other: ports for other, ports in found.items() if catalogue[other]["ports"]}


def policies(
    workloads: list[Workload], catalogue: Document, further: dict[str, list[Document]]
) -> list[Part]:
    """Return one policy for each service, and those for monitors and for what is before the deployment.

    *further* are the rules for what each service asks besides those that it depends on.
    """
    names = {workload.key: workload.name for workload in workloads}
    asked = {key: _asked(key, catalogue, further) for key in names}
    parts, inside = [], []
    for workload in workloads:
        ingress: list[Document] = []
        if workload.entry["role"] == "haproxy":
            ingress.append(_ports(workload.ports))
        for ports in sorted(
            {tuple(rules[workload.key]) for rules in asked.values() if workload.key in rules}
        ):
            callers = [
                _pods(names[key]) for key, rules in asked.items() if rules.get(workload.key) == list(ports)
            ]
            if workload.entry["role"] != "haproxy":
                ingress.append({"from": callers, **_ports(list(ports))})
        egress: list[Document] = [NAMES]
        elsewhere = False
        for key, found in asked[workload.key].items():
            egress.append({"to": [_pods(names[key]) if key in names else _ANYWHERE], **_ports(found)})
        for rule in further.get(workload.key, []):
            if rule["service"] is None:
                block = _host(rule["destination"]) if rule["destination"] else _OUTSIDE
                egress.append({"to": [block], **_ports(rule["ports"])})
                elsewhere = elsewhere or not rule["destination"]
        spec = {
            "podSelector": {"matchLabels": selector(workload.name)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": ingress,
            "egress": egress,
        }
        parts.append(Part(workload.name, policy(workload.name, spec), (ENABLED,)))
        if elsewhere:
            inside.append(workload.name)
        if workload.metrics is not None:
            spec = {
                "podSelector": {"matchLabels": selector(workload.name)},
                "policyTypes": ["Ingress"],
                "ingress": [{"from": Value(MONITORS), **_ports([workload.metrics[0]])}],
            }
            # Without peers the rule would be for everybody.
            parts.append(Part(workload.name, policy(f"{workload.name}-metrics", spec), (ENABLED, MONITORS)))
    haproxies = {workload.key for workload in workloads if workload.entry["role"] == "haproxy"}
    clients = [names[key] for key, rules in asked.items() if not haproxies.isdisjoint(rules)]
    # The smoke test is a client.
    parts += _towards("entry", [*clients, SMOKE], _ENTRY)
    parts += _towards("destinations", inside, _DESTINATIONS)
    return parts


def _towards(name: str, pods: list[str], peers: str) -> list[Part]:
    """Return the policy by which some pods may ask what a site names."""
    if not pods:
        return []
    spec = {
        "podSelector": {"matchExpressions": [{"key": NAME, "operator": "In", "values": sorted(pods)}]},
        "policyTypes": ["Egress"],
        "egress": [{"to": Value(peers)}],
    }
    return [Part("entry", policy(name, spec), (ENABLED, peers))]


def _host(address: str) -> Document:
    return {"ipBlock": {"cidr": str(ipaddress.ip_network(address))}}
