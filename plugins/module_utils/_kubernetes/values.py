# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a site's values mean, for the chart's schema and its page. Private to the collection."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes.entry import ROUTE, TYPE, TYPES
from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes.network import ENABLED, MONITORS
from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes.scaling import (
    TASKS,
    WAYS,
    WORKER,
    WORKER_WAYS,
)
from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes.template import (
    Document,
    KubernetesError,
    value_at,
)

# Texts go into configuration files as they are, so nothing in them may mean more there than itself.
HOST = r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$"
NETWORK = r"^[0-9.]+/[0-9]+$"
WORDS = r"^[A-Za-z0-9._:/~-]*$"

_TEXT: Document = {"type": "string"}
_LABEL: Document = {
    "type": "string",
    "maxLength": 253,
    "pattern": r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$",
}
"""Name of an object: a DNS subdomain (RFC 1123)."""
_FLAG: Document = {"type": "boolean"}
_MAP: Document = {"type": "object"}
_OBJECTS: Document = {"type": "array", "items": {"type": "object"}}

DESCRIBED: dict[str, tuple[Document, str]] = {
    "publicName": (
        {"type": "string", "pattern": HOST},
        "Host name under which clients and services reach HAProxy, on port 443.",
    ),
    "authority": (
        {"type": "string", "pattern": HOST},
        "Authority of the resource identifiers, as in `ivo://opencadc.org/cavern`.",
    ),
    "issuer": (
        {"type": "string", "pattern": r"^https://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?$"},
        "OpenID Connect issuer exactly as tokens spell it in `iss`.",
    ),
    "issuerKeyId": (
        {"type": "string", "pattern": WORDS},
        "Id of the local issuer's key; `make kubernetes-secrets` makes the key.",
    ),
    "podNetwork": (
        {"type": "string", "pattern": NETWORK},
        "IPv4 network of the cluster's pods. What HAProxy tells of a client is believed from there alone, with its "
        "proof, and its limits for each address do not count for it.",
    ),
    "image.prefix": ({"type": "string", "pattern": WORDS}, "Registry and path before each image's name."),
    "image.tag": ({"type": "string", "pattern": WORDS}, "Tag of each image."),
    "image.pullPolicy": ({"enum": ["Always", "IfNotPresent", "Never"]}, "When nodes fetch images."),
    "image.pullSecrets": (_OBJECTS, "Secrets for the registry, such as `[{name: registry}]`."),
    "hostAliases": (
        _OBJECTS,
        "Names that pods know besides the DNS's: with `entry.clusterIP`, the public name, if the DNS lacks it.",
    ),
    "entry.clusterIP": (
        _TEXT,
        "Fixed address of HAProxy inside of the cluster; the cluster chooses one when empty.",
    ),
    TYPE: (
        {"enum": list(TYPES)},
        "The one way in from outside of the cluster: a Service of HAProxy's (`LoadBalancer` or `NodePort`), an "
        "`Ingress` or an `HTTPRoute`, or none (`ClusterIP`). The Ingress has to speak TLS to HAProxy; neither it nor a "
        "Gateway hands client certificates on.",
    ),
    "entry.annotations": (_MAP, "Annotations of that Service, Ingress or HTTPRoute."),
    "gateway.parentRefs": (
        {"type": "array", "items": {"type": "object", "required": ["name"]}},
        "The Gateway that an HTTPRoute belongs to, such as `[{name: public, namespace: gateways}]`.",
    ),
    "ingress.className": (_TEXT, "Class of the Ingress."),
    "ingress.tlsSecret": (_TEXT, "Secret with the certificate that the Ingress shows."),
    "tls.secret": (
        _LABEL,
        "Secret of type `kubernetes.io/tls` with HAProxy's certificate for the public name.",
    ),
    "trust.configMap": (
        _LABEL,
        "ConfigMap with `ca-bundle.pem` (authorities that services trust), `client-ca.pem` and `client-crl.pem` "
        "(those of users' certificates), and the authorities of single storage elements and of Rucio where settings "
        "name some. For an HTTPRoute `ca.crt` too, the authority of HAProxy's certificate.",
    ),
    ENABLED: (_FLAG, "Whether connections are limited to those that the services need."),
    "networkPolicy.entry": (
        _OBJECTS,
        "Peers through which pods reach the public name, if it is not HAProxy's: those of the Ingress.",
    ),
    MONITORS: (
        _OBJECTS,
        "Peers that read metrics, as nobody else may, such as "
        "`[{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]`.",
    ),
    "networkPolicy.destinations": (
        _OBJECTS,
        "Peers in the cluster that settings name: an issuer, a storage element or Rucio there. Those outside need "
        "none.",
    ),
    "monitoring.enabled": (
        _FLAG,
        "Whether there are PodMonitors, for the operator of Prometheus, of the services that have metrics.",
    ),
    "monitoring.labels": (
        {"type": "object", "additionalProperties": {"type": "string"}},
        "Labels by which that operator chooses them, such as `{release: prometheus}`.",
    ),
    "monitoring.interval": (
        {"type": "string", "pattern": r"^[1-9][0-9]*(ms|s|m|h)$"},
        "Time between two readings.",
    ),
    "smoke.secret": (_LABEL, "Secret from which the smoke test takes its credentials."),
    "smoke.user": (_TEXT, "User for whom the smoke test stages a file."),
    "smoke.did": (_TEXT, "Identifier of that file."),
    "smoke.path": (_TEXT, "Its path on the RSE, where it has to be."),
    "smoke.destination": (_TEXT, "Directory of the user's area that it goes to."),
    "claims.*.name": (_LABEL, "Name of the claim."),
    "claims.*.create": (_FLAG, "Whether the chart makes it; false for a claim that exists."),
    "claims.*.spec": (_MAP, "What it asks for, as in a PersistentVolumeClaim."),
    "services.*.replicas": (
        {"type": "integer", "minimum": 0},
        "Number of pods; where it follows the load, it is not stated.",
    ),
    "services.*.scaling.by": (
        {"enum": list(WAYS)},
        "What sets the number of pods: `replicas` (`fixed`), or a HorizontalPodAutoscaler by their load (`cpu`).",
    ),
    f"services.{WORKER}.scaling.by": (
        {"enum": list(WORKER_WAYS)},
        "What sets the number of pods: `replicas` (`fixed`), a HorizontalPodAutoscaler by their load (`cpu`), or KEDA "
        "by the unfinished tasks (`tasks`).",
    ),
    "services.*.scaling.min": ({"type": "integer", "minimum": 1}, "Fewest pods."),
    "services.*.scaling.max": ({"type": "integer", "minimum": 1}, "Most pods."),
    "services.*.scaling.cpu": (
        {"type": "integer", "minimum": 1, "maximum": 10_000},
        "Processor time that pods shall use on average, in percent of what they request.",
    ),
    "services.*.scaling.tasks": (
        {"type": "integer", "minimum": 1, "maximum": 10_000},
        "Unfinished tasks for each pod.",
    ),
    "services.*.resources": (_MAP, "Memory and CPU of each pod."),
    "services.*.secret": (_LABEL, "Secret with its passwords and keys."),
    "services.*.state": (_MAP, "What its own volume asks for, as in a PersistentVolumeClaim."),
    "external.*.host": ({"type": "string", "pattern": HOST}, "Host of a service that the site has already."),
}


@dataclass(frozen=True)
class Rule:
    """Where these values are so, a list has to name something."""

    when: tuple[tuple[str, Any], ...]
    needs: str
    why: str

    def applies(self, values: Document) -> bool:
        """Return whether a site has all values that the rule is about."""
        return all(_has(values, path) for path in (*dict(self.when), self.needs))

    def check(self, values: Document) -> None:
        """Refuse values that break the rule. Raises KubernetesError."""
        if all(value_at(values, path) == wanted for path, wanted in self.when) and not value_at(
            values, self.needs
        ):
            stated = " and ".join(f"{path} is {json.dumps(wanted)}" for path, wanted in self.when)
            raise KubernetesError(f"kubernetes_values.{self.needs}: is empty, but {stated}: {self.why}")

    def schema(self) -> Document:
        """Return the rule as a JSON schema."""
        conditions = [_below(path, {"const": wanted}) for path, wanted in self.when]
        return {"if": {"allOf": conditions}, "then": _below(self.needs, {"minItems": 1})}


RULES = (
    Rule(
        ((TYPE, ROUTE),),
        "gateway.parentRefs",
        "name the Gateway, such as [{name: public, namespace: gateways}]",
    ),
    Rule(
        (("monitoring.enabled", True), (ENABLED, True)),
        MONITORS,
        "name the namespace of Prometheus, or nobody may read the metrics",
    ),
    Rule(
        ((f"services.{WORKER}.scaling.by", TASKS), (ENABLED, True)),
        MONITORS,
        "name the namespace of KEDA, which reads the number of tasks from the metrics",
    ),
)


def _has(values: Document, path: str) -> bool:
    try:
        value_at(values, path)
    except KubernetesError:
        return False
    return True


def _below(path: str, rule: Document) -> Document:
    """Return the schema of values of which the one at a dotted path meets a rule."""
    for key in reversed(path.split(".")):
        rule = {"properties": {key: rule}, "required": [key]}
    return rule


_TYPES: dict[str, type] = {"string": str, "boolean": bool, "integer": int, "object": dict, "array": list}


def check(values: Document) -> None:
    """Refuse values that the chart's schema would refuse. Raises KubernetesError."""
    for path, value in leaves(values).items():
        rule = described_as(path)[0]
        kind = rule.get("type")
        whole = kind != "integer" or not isinstance(value, bool)
        fits = (kind is None or (whole and isinstance(value, _TYPES[kind]))) and (
            value in rule.get("enum", [value])
        )
        if fits and isinstance(value, str):
            fits = len(value) <= rule.get("maxLength", len(value)) and (
                "pattern" not in rule or re.fullmatch(rule["pattern"], value) is not None
            )
        if fits and kind == "integer":
            fits = rule["minimum"] <= value <= rule.get("maximum", value)
        if not fits:
            wanted = {key: item for key, item in rule.items() if key != "items"}
            raise KubernetesError(f"kubernetes_values.{path}: {value!r} does not meet {json.dumps(wanted)}")
    for between in RULES:
        if between.applies(values):
            between.check(values)


def leaves(values: Document, path: str = "") -> dict[str, Any]:
    """Return the values that are described, by their dotted paths."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{path}.{key}" if path else key
        if described(name):
            found[name] = value
        elif isinstance(value, dict):
            found |= leaves(value, name)
        else:
            raise KeyError(f"{name}: has no description")
    return found


def _key(path: str) -> str:
    """Return the path under which a value is described: its own, or one for all services or all claims."""
    first, *rest = path.split(".")
    if path in DESCRIBED or first not in ("services", "claims", "external") or not rest:
        return path
    return ".".join([first, "*", *rest[1:]])


def described(path: str) -> bool:
    """Return whether what is at a dotted path is one value, and not several."""
    return _key(path) in DESCRIBED


def described_as(path: str) -> tuple[Document, str]:
    """Return a value's rule and meaning."""
    return DESCRIBED[_key(path)]


def schema(values: Document, path: str = "") -> Document:
    """Return the JSON schema of a site's values, of which no other may be given."""
    properties: Document = {}
    for key, value in values.items():
        name = f"{path}.{key}" if path else key
        if described(name):
            rule, description = described_as(name)
            properties[key] = {**rule, "description": description}
        else:
            properties[key] = schema(value, name)
    # Helm itself adds `global` to the values of every chart.
    more = {} if path else {"global": {"type": "object"}}
    rules = [] if path else [rule.schema() for rule in RULES if rule.applies(values)]
    top = {} if path else {"$schema": "http://json-schema.org/draft-07/schema#", "allOf": rules}
    return {
        **top,
        "type": "object",
        "properties": {**properties, **more},
        "required": list(properties),
        "additionalProperties": False,
    }
