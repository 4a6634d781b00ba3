# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose metrics the operator of Prometheus collects. Private to the collection."""

from __future__ import annotations

from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes.names import metadata, selector
from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes.template import (
    Document,
    Part,
    Value,
    With,
)
from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes.workload import Workload, port_name


def monitors(workloads: list[Workload]) -> list[Part]:
    """Return a PodMonitor for each service with metrics.

    Pods rather than Services are what it finds: the worker has no Service, and no Service has a port for metrics alone.
    """
    return [
        Part(workload.name, _monitor(workload, *workload.metrics), ("monitoring.enabled",))
        for workload in workloads
        if workload.metrics is not None
    ]


def _monitor(workload: Workload, port: int, path: str) -> Document:
    meta = metadata(workload.name)
    meta["labels"] = With(meta["labels"], "monitoring.labels")
    endpoint = {"port": port_name(port), "path": path, "interval": Value("monitoring.interval")}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": meta,
        "spec": {
            "jobLabel": "app.kubernetes.io/name",
            "selector": {"matchLabels": selector(workload.name)},
            "podMetricsEndpoints": [endpoint],
        },
    }
