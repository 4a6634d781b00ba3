# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many pods a service has where that follows its load. Private to the collection.

Each way is an object of its own that sets the number, so the Deployment states it only where none does.
"""

from __future__ import annotations

from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes.names import metadata
from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes.template import (
    Chosen,
    Document,
    InNamespace,
    KubernetesError,
    Part,
    Value,
)
from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes.workload import FIXED, Workload

CPU = "cpu"
TASKS = "tasks"
WAYS = (FIXED, CPU)
WORKER_WAYS = (*WAYS, TASKS)
WORKER = "celery_worker"
CORE = "core"
_STATES = ("QUEUED", "RUNNING")


def values(workload: Workload, replicas: int) -> Document:
    """Return the values of a service whose number of pods may follow its load; by default it does not."""
    found: Document = {"by": FIXED, "min": max(replicas, 1), "max": 4 * max(replicas, 1), "cpu": 80}
    return found | ({"tasks": 8} if workload.key == WORKER else {})


def check(services: Document) -> None:
    """Refuse values of services by which their pods have no number. Raises KubernetesError."""
    for key, service in services.items():
        found = service.get("scaling", {"min": 0, "max": 0, "by": FIXED})
        place = f"kubernetes_values.services.{key}.scaling"
        if found["min"] > found["max"]:
            raise KubernetesError(f"{place}.max: {found['max']} is less than min, {found['min']}")
        if found["by"] == TASKS and CORE not in services:
            raise KubernetesError(f"{place}.by: tasks are counted by core, which is not deployed")


def scalers(workloads: list[Workload]) -> list[Part]:
    """Return what sets the numbers of pods."""
    core = next((workload for workload in workloads if workload.key == CORE), None)
    parts = []
    for workload in workloads:
        if workload.scales:
            by_cpu = (Chosen(workload.value("scaling.by").path, (CPU,)),)
            parts.append(Part(workload.name, _by_cpu(workload), by_cpu))
            if workload.key == WORKER and core is not None:
                by_tasks = (Chosen(workload.value("scaling.by").path, (TASKS,)),)
                parts.append(Part(workload.name, _by_tasks(workload, core), by_tasks))
    return parts


def _by_cpu(workload: Workload) -> Document:
    target = {"type": "Utilization", "averageUtilization": workload.value("scaling.cpu")}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata(workload.name),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": workload.name},
            "minReplicas": workload.value("scaling.min"),
            "maxReplicas": workload.value("scaling.max"),
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        },
    }


def _by_tasks(workload: Workload, core: Workload) -> Document:
    """Return a scaler by the tasks that the ledger has unfinished, as core tells them to those who read metrics.

    Not by the broker's queue: a worker takes messages from it at once, whether it has a place for the task or not. Nor
    by queued tasks alone, since workers would then be taken away from those that run. Reading takes no credential.
    """
    port, path = core.metrics or (0, "")
    url = InNamespace(f"http://{core.name}.", f":{port}{path}")
    triggers = [
        {
            "type": "metrics-api",
            "name": state.lower(),
            "metadata": {
                "url": url,
                "format": "prometheus",
                "valueLocation": f'prepare_data_tasks{{state="{state}"}}',
                "targetValue": "1",
            },
        }
        for state in _STATES
    ]
    target = Value(workload.value("scaling.tasks").path, text=True)
    formula = " + ".join(state.lower() for state in _STATES)
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": metadata(workload.name),
        "spec": {
            "scaleTargetRef": {"name": workload.name},
            "minReplicaCount": workload.value("scaling.min"),
            "maxReplicaCount": workload.value("scaling.max"),
            "advanced": {
                "scalingModifiers": {"formula": formula, "target": target, "metricType": "AverageValue"}
            },
            "triggers": triggers,
        },
    }
