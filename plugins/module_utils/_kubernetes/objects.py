# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the composed services of a deployment to its objects on Kubernetes. Private to the collection.

The services are those that converge takes, so that Docker, Compose and Kubernetes have the same list.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes import (
    entry,
    monitoring,
    network,
    scaling,
)
from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes.names import (
    check_claim,
    metadata,
    quantity,
)
from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes.template import (
    Document,
    KubernetesError,
    Part,
    Value,
)
from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes.values import (
    check,
    described,
)
from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes.workload import (
    Claim,
    Workload,
)


@dataclass(frozen=True)
class Deployment:
    """What all objects of a deployment are made from."""

    catalogue: Document
    """The catalogue as `kubernetes_catalogue` returns it."""
    workloads: list[Workload]
    claims: Document
    """Directories that services share: for each claim its `source` on a host of Docker, `access` and `size`."""
    further: dict[str, list[Document]]
    """What services ask besides those that they depend on, as the filter `connections` tells it."""
    public_name: str
    smoke: Document
    """The smoke test: its `script`, and the keys of the Secret that it takes a token from."""


def deployment(
    services: list[Document],
    catalogue: Document,
    claims: Document,
    further: dict[str, list[Document]],
    public_name: str,
    authorities: str,
    smoke: Document,
) -> Deployment:
    """Return the deployment of *services*. Raises KubernetesError."""
    for name, claim in claims.items():
        check_claim(name)
        for field in ("source", "access", "size"):
            if not claim.get(field):
                raise KubernetesError(f"kubernetes_claims.{name}.{field}: is missing")
    # The innermost directory first: a claim may be for a part of another's.
    ordered = sorted(claims, key=lambda name: -len(claims[name]["source"]))
    shared = tuple(Claim(name, claims[name]["source"]) for name in ordered)
    workloads = [
        Workload(catalogue[spec["name"]], spec, shared, authorities)
        for spec in services
        if not catalogue[spec["name"]].get("external")
    ]
    if not any(workload.entry["role"] == "haproxy" for workload in workloads):
        raise KubernetesError("deployment_service_overrides.haproxy: nobody reaches a deployment without it")
    used = {name for workload in workloads for name in workload.used_claims()}
    needed = {name: claim for name, claim in claims.items() if name in used}
    return Deployment(catalogue, workloads, needed, further, public_name, smoke)


def _haproxy(whole: Deployment) -> Workload:
    return next(workload for workload in whole.workloads if workload.entry["role"] == "haproxy")


def _claims(whole: Deployment) -> list[Part]:
    parts = []
    for name in whole.claims:
        meta = metadata(name, annotations={"helm.sh/resource-policy": "keep"}) | {
            "name": Value(f"claims.{name}.name")
        }
        spec = Value(f"claims.{name}.spec")
        document = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec}
        parts.append(Part("claims", document, (f"claims.{name}.create",)))
    return parts


def _smoke(whole: Deployment) -> list[Part]:
    """Return a Job that stages a file as a user does, in the image of the API, which has all that it takes."""
    core = next((workload for workload in whole.workloads if workload.key == "core"), None)
    if core is None:
        return []
    hook = {"helm.sh/hook": "test", "helm.sh/hook-delete-policy": "before-hook-creation"}
    script = {"smoke.py": whole.smoke["script"]}
    meta = metadata(network.SMOKE, annotations=hook | {"helm.sh/hook-weight": "-1"})
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": script}
    credentials = {
        "secret": {
            "name": Value("smoke.secret"),
            "items": [{"key": key, "path": path} for path, key in whole.smoke["credentials"].items()],
        }
    }
    authority = {
        "configMap": {"name": Value("trust.configMap"), "items": [{"key": "ca-bundle.pem", "path": "ca.pem"}]}
    }
    pod = core.pod()
    container: Document = {
        "name": network.SMOKE,
        "image": core.spec["image"],
        "imagePullPolicy": Value("image.pullPolicy"),
        "command": ["python3", "/smoke/smoke.py"],
        "env": [
            {"name": "SMOKE_URL", "value": f"https://{whole.public_name}"},
            {"name": "SMOKE_ROUTE", "value": core.entry["route"]},
            {"name": "SMOKE_ISSUER", "value": whole.smoke["issuer"]},
            *(
                {"name": f"SMOKE_{name.upper()}", "value": Value(f"smoke.{name}")}
                for name in ("user", "did", "path", "destination")
            ),
        ],
        "resources": {"limits": {"memory": "128Mi"}, "requests": {"memory": "64Mi", "cpu": "10m"}},
        "securityContext": pod["containers"][0]["securityContext"],
        "volumeMounts": [{"name": network.SMOKE, "mountPath": "/smoke", "readOnly": True}],
    }
    spec = {
        key: pod[key]
        for key in ("automountServiceAccountToken", "enableServiceLinks", "imagePullSecrets", "hostAliases")
    } | {
        "restartPolicy": "Never",
        "securityContext": {
            key: pod["securityContext"][key] for key in ("fsGroup",) if key in pod["securityContext"]
        },
        "containers": [container],
        "volumes": [
            {
                "name": network.SMOKE,
                "projected": {
                    "defaultMode": 0o440,
                    "sources": [{"configMap": {"name": network.SMOKE}}, credentials, authority],
                },
            }
        ],
    }
    labels = metadata(network.SMOKE)["labels"]
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(network.SMOKE, annotations=hook),
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": 300,
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }
    haproxy = _haproxy(whole)
    egress = [
        network.NAMES,
        {
            "to": [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": haproxy.name}}}],
            "ports": [{"protocol": "TCP", "port": port} for port in haproxy.ports],
        },
    ]
    rule = {
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": network.SMOKE}},
        "policyTypes": ["Egress"],
        "egress": egress,
    }
    return [
        Part(network.SMOKE, network.policy(network.SMOKE, rule), (network.ENABLED,)),
        Part(network.SMOKE, config),
        Part(network.SMOKE, job),
    ]


def objects(whole: Deployment) -> list[Part]:
    """Return the objects of a deployment, with places for the site's values. Raises KubernetesError."""
    parts = _claims(whole)
    for workload in whole.workloads:
        parts += workload.parts()
    parts += network.policies(whole.workloads, whole.catalogue, whole.further)
    parts += [*scaling.scalers(whole.workloads), *monitoring.monitors(whole.workloads)]
    return [*parts, *entry.entry(_haproxy(whole), whole.public_name), *_smoke(whole)]


def secrets(whole: Deployment, values: Document, read: Callable[[str], bytes]) -> list[Part]:
    """Return what a site has besides: a Secret for each service, that of the certificate, and the authorities.

    *read* returns the content of a file. Raises KubernetesError.
    """

    def content(item: Document) -> bytes:
        for name in ("content", "secret_content"):
            if item.get(name) is not None:
                return str(item[name]).encode()
        return read(item["source"])

    def encoded(data: dict[str, bytes]) -> dict[str, str]:
        return {key: base64.b64encode(text).decode() for key, text in data.items()}

    parts: list[Part] = []
    trusted: dict[str, str] = {}
    certificates: dict[str, bytes] = {}
    for workload in whole.workloads:
        if files := workload.secrets():
            name = values["services"][workload.key]["secret"]
            data = encoded({key: content(item) for key, item in files.items()})
            document = {
                "apiVersion": "v1",
                "kind": "Secret",
                "type": "Opaque",
                "metadata": metadata(name),
                "data": data,
            }
            parts.append(Part(name, document))
        for key, item in workload.trusted().items():
            text = content(item).decode()
            if trusted.setdefault(key, text) != text:
                raise KubernetesError(
                    f"{workload.key}: {item['source']} is another file than that which another service has by the name "
                    f"{key}: give both services the same one"
                )
        for item in workload.certificates():
            certificates = _divided(content(item), item["source"])
    name = values["tls"]["secret"]
    document = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": metadata(name)}
    parts.append(Part(name, document | {"data": encoded(certificates)}))
    name = values["trust"]["configMap"]
    if values["entry"]["type"] == entry.ROUTE:
        trusted[entry.AUTHORITY] = trusted["ca-bundle.pem"]
    document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(name), "data": trusted}
    return [*parts, Part(name, document)]


def _divided(pem: bytes, source: str) -> dict[str, bytes]:
    """Return certificates and key of one file, as a Secret of type TLS has them."""
    blocks: dict[str, list[bytes]] = {"tls.crt": [], "tls.key": []}
    for block in pem.split(b"-----BEGIN ")[1:]:
        blocks["tls.key" if b"PRIVATE KEY" in block.splitlines()[0] else "tls.crt"].append(
            b"-----BEGIN " + block.rstrip() + b"\n"
        )
    if not blocks["tls.crt"] or len(blocks["tls.key"]) != 1:
        raise KubernetesError(f"{source}: has not one key with its certificates")
    return {name: b"".join(found) for name, found in blocks.items()}


def site_values(whole: Deployment, site: Document, storage_class: str, overrides: Document) -> Document:
    """Return the values of a site: what its inventory says, by the chart's names. Raises KubernetesError.

    *site* has the values that are not of single services or claims, *storage_class* what those have that name none, and
    *overrides* what differs from all that.
    """
    claims = {
        name: {
            "name": name,
            "create": True,
            "spec": _claim_spec(claim["access"], claim["size"], claim.get("storage_class", storage_class)),
        }
        for name, claim in whole.claims.items()
    }
    services = {workload.key: _service_values(workload, storage_class) for workload in whole.workloads}
    values = _overridden({**site, "claims": claims, "services": services}, overrides)
    check(values)
    scaling.check(values["services"])
    _check_names(values)
    return values


def _check_names(values: Document) -> None:
    """Raise KubernetesError where two objects of one kind would have one name."""
    places = {f"claims.{key}.name": claim["name"] for key, claim in values["claims"].items()}
    _differ(places)
    places = {
        f"services.{key}.secret": service["secret"]
        for key, service in values["services"].items()
        if "secret" in service
    }
    _differ(places | {"tls.secret": values["tls"]["secret"]})


def _differ(places: dict[str, str]) -> None:
    seen: dict[str, str] = {}
    for path, name in places.items():
        if (other := seen.setdefault(name, path)) != path:
            raise KubernetesError(f"kubernetes_values.{path}: {name} is the name of {other} already")


def _service_values(workload: Workload, storage_class: str) -> Document:
    memory = quantity(workload.spec["memory"])
    values: Document = {
        "replicas": int(workload.entry.get("replicas") or 1),
        "resources": {
            "limits": {"memory": memory},
            "requests": {"memory": memory, "cpu": str(workload.entry.get("cpu") or "50m")},
        },
    }
    if workload.secrets():
        values["secret"] = workload.name
    if workload.scales:
        values["scaling"] = scaling.values(workload, values["replicas"])
    if workload.own_state:
        place = f"deployment_service_overrides.{workload.key}"
        if not workload.entry.get("state"):
            raise KubernetesError(f"{place}.state: give the size of what it keeps, such as 10g")
        if values["replicas"] != 1:
            raise KubernetesError(f"{place}.replicas: what keeps state of its own has one")
        if workload.scales:
            raise KubernetesError(f"{place}.scales: what keeps state of its own has one pod")
        values["state"] = _claim_spec("ReadWriteOnce", workload.entry["state"], storage_class)
    return values


def _overridden(values: Document, overrides: Document, place: str = "", free: bool = False) -> Document:
    """Merge what differs; dictionaries are merged, as Helm does it. What is not *free* must be there already."""
    merged = dict(values)
    for key, item in overrides.items():
        path = f"{place}.{key}" if place else key
        if key not in values and not free:
            raise KubernetesError(
                f"kubernetes_values.{path}: there is no such value; there are {', '.join(sorted(values))}"
            )
        old = values.get(key)
        if isinstance(old, dict) and not isinstance(item, dict):
            raise KubernetesError(f"kubernetes_values.{path}: give a dictionary, such as {{name: value}}")
        below = free or described(path)
        merged[key] = _overridden(old, item, path, below) if isinstance(old, dict) else item
    return merged


def _claim_spec(access: str, size: Any, storage_class: str | None = None) -> Document:
    spec: Document = {"accessModes": [access], "resources": {"requests": {"storage": quantity(size)}}}
    return spec | ({"storageClassName": storage_class} if storage_class else {})
