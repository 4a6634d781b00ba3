# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How those outside of the cluster reach HAProxy: one way for each site. Private to the collection."""

from __future__ import annotations

from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes.names import metadata, selector
from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes.template import (
    Chosen,
    Document,
    Part,
    Value,
)
from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes.workload import Workload, port_name

TYPE = "entry.type"
SERVICES = ("LoadBalancer", "NodePort")
INGRESS = "Ingress"
ROUTE = "HTTPRoute"
TYPES = (*SERVICES, INGRESS, ROUTE, "ClusterIP")
"""Ways in; with the last there is none but HAProxy's Service in the cluster."""
# Of other projects' kinds the server keeps an empty map as a difference to none.
_ANNOTATIONS = Value("entry.annotations", when="entry.annotations")
AUTHORITY = "ca.crt"
"""Key under which a Gateway looks for the authority of HAProxy's certificate."""


def entry(haproxy: Workload, public_name: str) -> list[Part]:
    """Return the objects of each way in."""
    route = Chosen(TYPE, (ROUTE,))
    return [
        Part("entry", _service(haproxy), (Chosen(TYPE, SERVICES),)),
        Part("entry", _ingress(haproxy, public_name), (Chosen(TYPE, (INGRESS,)),)),
        Part("entry", _route(haproxy, public_name), (route,)),
        Part("entry", _backend_tls(haproxy, public_name), (route,)),
    ]


def _service(haproxy: Workload) -> Document:
    ports = [
        {"name": port_name(port), "port": port, "targetPort": port, "protocol": "TCP"}
        for port in haproxy.ports
    ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(f"{haproxy.name}-public", annotations=_ANNOTATIONS),
        "spec": {
            "type": Value(TYPE),
            # HAProxy limits what one address may take: it has to see clients' own.
            "externalTrafficPolicy": "Local",
            "selector": selector(haproxy.name),
            "ports": ports,
        },
    }


def _ingress(haproxy: Workload, public_name: str) -> Document:
    backend = {"service": {"name": haproxy.name, "port": {"number": 443}}}
    paths = [{"path": "/", "pathType": "Prefix", "backend": backend}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": metadata(haproxy.name, annotations=_ANNOTATIONS),
        "spec": {
            "ingressClassName": Value("ingress.className"),
            "tls": [{"hosts": [public_name], "secretName": Value("ingress.tlsSecret")}],
            "rules": [{"host": public_name, "http": {"paths": paths}}],
        },
    }


def _route(haproxy: Workload, public_name: str) -> Document:
    rule = {
        "backendRefs": [{"name": haproxy.name, "port": 443}],
        # Transfers take as long as they take; HAProxy ends those that stand still.
        "timeouts": {"request": "0s"},
    }
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": ROUTE,
        "metadata": metadata(haproxy.name, annotations=_ANNOTATIONS),
        "spec": {
            "parentRefs": Value("gateway.parentRefs"),
            "hostnames": [public_name],
            "rules": [rule],
        },
    }


def _backend_tls(haproxy: Workload, public_name: str) -> Document:
    """Return what tells the Gateway to speak TLS to HAProxy, and whose certificate that has to show."""
    target = {"group": "", "kind": "Service", "name": haproxy.name, "sectionName": port_name(443)}
    authority = {"group": "", "kind": "ConfigMap", "name": Value("trust.configMap")}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "BackendTLSPolicy",
        "metadata": metadata(haproxy.name),
        "spec": {
            "targetRefs": [target],
            "validation": {"hostname": public_name, "caCertificateRefs": [authority]},
        },
    }
