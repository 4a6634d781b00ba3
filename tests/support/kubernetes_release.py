"""The chart of a deployment, installed in the cluster of the tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kubernetes_nodes as nodes
import yaml
from kubernetes_load import Entry
from kubernetes_site import Written

NAMESPACE = "cavern"
FILE = "/srv/rse/testing/84/1c/prepare_data_test.txt"
"""What the smoke test stages, on the nodes."""
SETTINGS: dict[str, Any] = {
    "deployment_public_name": "cavern.nodes.example",
    "deployment_image_prefix": "cavern",
    "deployment_image_tag": "local",
    "deployment_service_overrides": {},
    "deployment_certificates_dir": "{{ deployment_controller_dir }}/certs",
    "kubernetes_pod_network": "10.244.0.0/16",
    "kubernetes_cluster_ip": "10.96.77.77",
    "kubernetes_storage_class": "",
    "kubernetes_values": {
        # Nobody here gives a load balancer its address.
        "entry": {"type": "NodePort"},
        "claims": nodes.CLAIMS,
    },
}


def install(cluster: nodes.Cluster, site: Written) -> None:
    """Install the chart, and wait for all of it."""
    nodes.storage(cluster, NAMESPACE)
    label = {"pod-security.kubernetes.io/enforce": "baseline"}
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": label}}
    cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(space))
    secrets = (site.chart.parent / "kubernetes/secrets.yaml").read_text()
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin=secrets)
    cluster.copy(site.chart, "/root/chart")
    given = ("install", "cavern", "/root/chart", f"-n{NAMESPACE}", "--wait", "--timeout=8m")
    done = cluster.helm(*given, check=False)
    if "STATUS: deployed" not in done:
        states = cluster.kubectl("get", "pods,pvc", f"-n{NAMESPACE}", "-o", "wide")
        events = cluster.kubectl("get", "events", f"-n{NAMESPACE}", "--sort-by=.lastTimestamp")
        raise AssertionError(f"{done}\n{states}\n{events[-6000:]}")


def place_file(cluster: nodes.Cluster) -> None:
    """Put the file of the smoke test on the RSE."""
    cluster.execute("sh", "-c", f"mkdir -p {FILE.rpartition('/')[0]} && echo staged >{FILE}")


def smoke_test(cluster: nodes.Cluster) -> None:
    """Have Helm stage the file."""
    told = cluster.helm("test", "cavern", f"-n{NAMESPACE}", "--logs", "--timeout=3m", check=False)
    logs = cluster.kubectl("logs", "job/smoke", f"-n{NAMESPACE}", check=False)
    assert "smoke test passed: testing:prepare_data_test.txt staged, 7 bytes" in logs, told + logs


@contextmanager
def running(programs: Path, directory: Path, site: Written) -> Iterator[nodes.Cluster]:
    """Install the chart in a cluster of its own, for as long as the block takes; *directory* is the nodes'."""
    try:
        cluster = nodes.start(programs, directory, nodes.images())
        install(cluster, site)
        yield cluster
    finally:
        nodes.stop()


def settled(cluster: nodes.Cluster) -> bool:
    """Return whether all pods are ready."""
    conditions = [pod["status"].get("conditions", []) for pod in pods(cluster)]
    ready = [any(c["type"] == "Ready" and c["status"] == "True" for c in listed) for listed in conditions]
    return len(ready) > 10 and all(ready)


def pods(cluster: nodes.Cluster) -> list[dict[str, Any]]:
    """Return the pods of services."""
    return [
        pod for pod in cluster.get("pods", f"-n{NAMESPACE}") if "job-name" not in pod["metadata"]["labels"]
    ]


def entry_of(cluster: nodes.Cluster, site: Written, name: str = SETTINGS["deployment_public_name"]) -> Entry:
    """Return the deployment's public name at the port that the first node has for it."""
    (ports,) = [
        service["spec"]["ports"]
        for service in cluster.get("services", f"-n{NAMESPACE}")
        if service["spec"]["type"] == "NodePort"
    ]
    (port,) = [entry["nodePort"] for entry in ports if entry["port"] == 443]
    return Entry(name, f"{nodes.SUBNET}.11", port, site.chart.parent / "certs/ca.pem")
