# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the deployment as objects of Kubernetes, or as a chart of Helm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.skasrc.cavern.plugins.filter import catalogue as connections
from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes import names, objects
from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes.template import KubernetesError
from ansible_collections.skasrc.cavern.plugins.plugin_utils import _manifests


def kubernetes_catalogue(
    services: dict[str, Any], external: dict[str, dict[str, Any]], pod_network: str
) -> dict[str, Any]:
    """Return the catalogue as a cluster has it: services by their names in its DNS, and clients in its pods' network.

    Those that are *external* are where the site has them.
    """
    unknown = sorted(set(external) - set(services))
    if unknown:
        raise AnsibleFilterError(
            f"kubernetes_external: no such service: {', '.join(unknown)}; "
            f"the catalogue has {', '.join(sorted(services))}"
        )
    found = {}
    for key, placed in services.items():
        # Its replicas are one service, under the name of the first.
        first: dict[str, Any] = next(iter(placed.get("instances", [])), {})
        service = {name: value for name, value in placed.items() if name != "instances"} | {
            name: first[name] for name in ("alias", "container") if name in first
        }
        if service.get("monitors"):
            # A cluster has its own.
            continue
        if key in external:
            stated = external[key]
            if not stated.get("host"):
                raise AnsibleFilterError(f"kubernetes_external.{key}.host: is missing")
            port = int(stated.get("port") or service["port"])
            place = {"alias": stated["host"], "port": port, "ports": [port], "external": True}
        else:
            place = {"alias": _checked(names.label, service["alias"])}
        found[key] = service | place | {"address": place["alias"], "source": pod_network}
    return found


def _checked(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except KubernetesError as error:
        raise AnsibleFilterError(str(error)) from error


def _whole(services: list[dict[str, Any]], wanted: dict[str, Any]) -> objects.Deployment:
    found: objects.Deployment = _checked(
        objects.deployment,
        services,
        wanted["catalogue"],
        wanted["claims"],
        connections.further(wanted["catalogue"], wanted["destinations"], wanted["public_name"]),
        wanted["public_name"],
        wanted["authorities"],
        wanted["smoke"],
    )
    return found


def kubernetes_values(
    services: list[dict[str, Any]], wanted: dict[str, Any], overrides: dict[str, Any]
) -> dict[str, Any]:
    """Return the values of the site that an inventory describes."""
    whole = _whole(services, wanted)
    values: dict[str, Any] = _checked(
        objects.site_values, whole, wanted["site"], wanted["storage_class"], overrides
    )
    return values


def to_kubernetes(
    services: list[dict[str, Any]], wanted: dict[str, Any], values: dict[str, Any], namespace: str
) -> dict[str, str]:
    """Return the files of a directory for Kustomize, by their paths."""
    parts = _checked(objects.objects, _whole(services, wanted))
    files: dict[str, str] = _checked(_manifests.manifests, parts, values, namespace)
    return files


def to_chart(
    services: list[dict[str, Any]],
    wanted: dict[str, Any],
    values: dict[str, Any],
    markers: dict[str, str],
    version: str,
) -> dict[str, str]:
    """Return the files of a chart, by their paths."""
    parts = _checked(objects.objects, _whole(services, wanted))
    files: dict[str, str] = _checked(_manifests.chart, parts, values, markers, version)
    return files


def kubernetes_secrets(
    services: list[dict[str, Any]], wanted: dict[str, Any], values: dict[str, Any], namespace: str
) -> str:
    """Return the Secrets and the ConfigMap of authorities that a site has besides, as one file."""

    def read(source: str) -> bytes:
        try:
            return Path(source).read_bytes()
        except OSError as error:
            raise KubernetesError(
                f"{source}: cannot be read on the machine that runs Ansible: {error.strerror}"
            ) from error

    parts = _checked(objects.secrets, _whole(services, wanted), values, read)
    documents = [
        part.document | {"metadata": part.document["metadata"] | {"namespace": namespace}} for part in parts
    ]
    return "---\n".join(_manifests.dump(document) for document in documents)


def superfluous_objects(
    found: list[dict[str, Any]], wanted: list[dict[str, Any]], manager: str
) -> list[dict[str, Any]]:
    """Return those of the objects in a cluster that a *manager* applied there and that are not *wanted* any more."""
    names = {(item["kind"], item["metadata"]["name"]) for item in wanted}
    return [
        item
        for item in found
        if (item["kind"], item["metadata"]["name"]) not in names
        and any(
            fields.get("manager") == manager and fields.get("operation") == "Apply"
            for fields in item["metadata"].get("managedFields", [])
        )
    ]


class FilterModule:
    """The filters by their names."""

    def filters(self) -> dict[str, Any]:
        """Name the filters for Ansible."""
        return {
            "kubernetes_catalogue": kubernetes_catalogue,
            "kubernetes_secrets": kubernetes_secrets,
            "kubernetes_values": kubernetes_values,
            "superfluous_objects": superfluous_objects,
            "to_chart": to_chart,
            "to_kubernetes": to_kubernetes,
        }
