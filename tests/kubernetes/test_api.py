"""A real API server takes the objects, those of other projects' kinds among them, and Ansible brings them there."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_server import Server, serve
from kubernetes_site import Written, changes, run_playbook, write

# The first run compiles what the fixtures use.
pytestmark = pytest.mark.timeout(3600)
NAMESPACE = "cavern"
PEERS = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
SETTINGS: dict[str, Any] = {
    "deployment_public_name": "cavern.nodes.example",
    "deployment_certificates_dir": "{{ deployment_controller_dir }}/certs",
    "kubernetes_cluster_ip": "10.96.77.77",
    # Nobody runs pods here.
    "kubernetes_wait": 0,
    "kubernetes_values": {
        "entry": {"type": "HTTPRoute"},
        "gateway": {"parentRefs": [{"name": "public", "namespace": "gateways"}]},
        "monitoring": {"enabled": True, "labels": {"release": "prometheus"}},
        "networkPolicy": {"monitors": PEERS},
        "services": {
            "celery_worker": {"scaling": {"by": "tasks"}},
            "core": {"scaling": {"by": "cpu"}},
        },
    },
}


@pytest.fixture(scope="module")
def server(built_kube: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return an API server."""
    with serve(built_kube, tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Return what an inventory with all further kinds comes to."""
    return write(tmp_path_factory.mktemp("site"), SETTINGS, "kubernetes", "kubernetes_secrets")


def play(
    site: Written, server: Server, *arguments: str, playbook: str = "kubernetes"
) -> subprocess.CompletedProcess[str]:
    """Apply what an inventory comes to."""
    inventory = site.chart.parents[1] / "inventory"
    given = ["-e", "kubernetes_apply=true", "-e", f"kubernetes_kubeconfig={server.kubeconfig}"]
    return run_playbook("-i", str(inventory), f"playbooks/{playbook}.yml", *given, *arguments)


def change(site: Written, **settings: Any) -> None:
    """Give the inventory other settings."""
    own = SETTINGS | settings | {"deployment_controller_dir": str(site.chart.parent)}
    (site.chart.parents[1] / "inventory/group_vars/all/test.yml").write_text(yaml.safe_dump(own))


def names(server: Server, kinds: str) -> set[str]:
    """Return the objects in the namespace."""
    return {f"{item['kind']}/{item['metadata']['name']}" for item in server.get(kinds, f"-n{NAMESPACE}")}


def test_a_run_in_check_mode_brings_nothing(server: Server, site: Written) -> None:
    assert changes(play(site, server, "--check", "--diff")) == 1
    assert NAMESPACE not in {item["metadata"]["name"] for item in server.get("namespaces")}


def test_what_is_applied_is_there_and_a_second_run_changes_nothing(server: Server, site: Written) -> None:
    for playbook in ("kubernetes_secrets", "kubernetes"):
        done = play(site, server, playbook=playbook)
        assert changes(done), playbook
        assert not any(secret in done.stdout for secret in site.secrets.values() if len(secret) > 12)
    kinds = {name.partition("/")[0] for name in site.objects}
    assert kinds >= {"PodMonitor", "ScaledObject", "HorizontalPodAutoscaler", "HTTPRoute", "BackendTLSPolicy"}
    there = names(server, ",".join(sorted(kinds)))
    assert there >= {name for name in site.objects if not name.endswith("/smoke")}
    for playbook in ("kubernetes_secrets", "kubernetes"):
        done = play(site, server, playbook=playbook)
        assert changes(done) == 0, done.stdout


def test_the_server_knows_every_field(server: Server, site: Written) -> None:
    base = site.chart.parent / "kubernetes/base"
    arguments = ("--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict")
    done = server.kubectl("apply", "-k", str(base), *arguments)
    assert "unknown field" not in done.stderr
    assert "Warning" not in done.stderr


def test_a_number_of_pods_that_follows_the_load_is_not_stated(server: Server, site: Written) -> None:
    manager = {"manager": "skasrc-cavern", "operation": "Apply"}
    stated = {}
    for item in server.get("deployments", f"-n{NAMESPACE}", "--show-managed-fields"):
        fields = [entry for entry in item["metadata"]["managedFields"] if manager.items() <= entry.items()]
        stated[item["metadata"]["name"]] = "f:replicas" in fields[0]["fieldsV1"]["f:spec"]
    scaled = {"ska-src-local-data-preparer-core", "ska-src-local-data-preparer-celery-worker"}
    assert {name for name, found in stated.items() if not found} == scaled


def test_a_change_shows_its_difference_and_what_is_not_wanted_goes(server: Server, site: Written) -> None:
    labels = {"app.kubernetes.io/part-of": "skasrc-cavern"}
    metadata = {"name": "mine", "namespace": NAMESPACE, "labels": labels}
    mine = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
    server.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(mine))
    change(site, kubernetes_values={"entry": {"type": "NodePort"}})
    kinds = (
        "scaledobjects,podmonitors,httproutes,backendtlspolicies,horizontalpodautoscalers,services,configmaps"
    )
    before = names(server, kinds)
    foreseen = play(site, server, "--check", "--diff")
    assert changes(foreseen)
    assert names(server, kinds) == before
    done = play(site, server, "--diff")
    assert changes(done)
    for told in (foreseen.stdout, done.stdout):
        assert re.search(r"^\+ +replicas: 2$", told, re.MULTILINE), told
        assert "ScaledObject/ska-src-local-data-preparer-celery-worker" in told
    gone = before - names(server, kinds)
    assert {name.partition("/")[0] for name in gone} == {
        "PodMonitor",
        "ScaledObject",
        "HorizontalPodAutoscaler",
        "HTTPRoute",
        "BackendTLSPolicy",
    }
    assert names(server, kinds) >= {"Service/haproxy-public", "ConfigMap/mine", "ConfigMap/authorities"}
    assert changes(play(site, server)) == 0


def test_a_release_of_helm_is_left_alone(server: Server, site: Written) -> None:
    label = ("label", "deployment", "reg", f"-n{NAMESPACE}")
    server.kubectl(*label, "app.kubernetes.io/managed-by=Helm")
    try:
        done = play(site, server)
    finally:
        server.kubectl(*label, "app.kubernetes.io/managed-by-")
    assert done.returncode != 0
    assert "kubernetes_namespace: cavern has the deployment as a release of Helm" in " ".join(
        done.stdout.split()
    )
