"""The chart installed in a cluster of two nodes: a file is staged, and a second upgrade changes nothing."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_nodes as nodes
import pytest
from kubernetes_load import Entry, Load
from kubernetes_release import NAMESPACE, SETTINGS, entry_of, place_file, pods, running, smoke_test
from kubernetes_site import Written, changes, run_playbook, write
from prepare_data_client.did import DID
from tasks import FINAL

# The first run compiles what the fixtures use.
pytestmark = pytest.mark.timeout(3600)
FILES = 2_000
"""Files that are being staged when a node dies."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Return what the inventory of the cluster comes to."""
    return write(tmp_path_factory.mktemp("site"), SETTINGS, "kubernetes", "kubernetes_secrets", "chart")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of what the nodes have in common."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def cluster(programs: Path, site: Written, shared: Path) -> Iterator[nodes.Cluster]:
    """Install the chart in a cluster."""
    with running(programs, shared, site) as cluster:
        place_file(cluster)
        yield cluster


def test_a_file_is_staged(cluster: nodes.Cluster) -> None:
    smoke_test(cluster)


def nodes_of(cluster: nodes.Cluster) -> dict[str, set[str]]:
    """Return the nodes that have pods of each service."""
    places: dict[str, set[str]] = {}
    for pod in pods(cluster):
        name = pod["metadata"]["labels"]["app.kubernetes.io/name"]
        places.setdefault(name, set()).add(pod["spec"]["nodeName"])
    return places


def test_replicas_are_on_both_nodes(cluster: nodes.Cluster) -> None:
    places = nodes_of(cluster)
    assert len(places) == 11
    for name in ("haproxy", "reg", "src-posix-mapper", "ska-src-local-data-preparer-core"):
        assert places[name] == {"node1", "node2"}, name


def test_a_second_upgrade_changes_nothing(cluster: nodes.Cluster) -> None:
    kinds = "deployments,statefulsets,services,configmaps,networkpolicies,persistentvolumeclaims,poddisruptionbudgets"

    def state() -> dict[str, Any]:
        objects = cluster.get(kinds, f"-n{NAMESPACE}")
        specs = {
            f"{item['kind']}/{item['metadata']['name']}": (item.get("spec"), item.get("data"))
            for item in objects
        }
        return specs | {"pods": sorted(pod["metadata"]["name"] for pod in pods(cluster))}

    before = state()
    done = cluster.helm("upgrade", "cavern", "/root/chart", f"-n{NAMESPACE}", "--wait", "--timeout=3m")
    assert "REVISION: 2" in done
    assert state() == before


@pytest.fixture(scope="module")
def entry(cluster: nodes.Cluster, site: Written) -> Entry:
    """Return the deployment's public name."""
    return entry_of(cluster, site)


def test_new_pods_everywhere_fail_no_request(cluster: nodes.Cluster, site: Written, entry: Entry) -> None:
    """As an upgrade replaces them: all services that keep no state of their own at the same time, under load."""
    load = Load(entry, entry.token("rolling", site.secrets), "rolling")
    load.prepare()
    before = {pod["metadata"]["name"] for pod in pods(cluster)}

    def left() -> set[str]:
        return {name for pod in pods(cluster) if (name := pod["metadata"]["name"]) in before}

    with load.running("testing:prepare_data_test.txt"):
        cluster.kubectl("rollout", "restart", "deployment", f"-n{NAMESPACE}")
        for deployment in cluster.get("deployments", f"-n{NAMESPACE}"):
            name = deployment["metadata"]["name"]
            cluster.kubectl("rollout", "status", f"deployment/{name}", f"-n{NAMESPACE}", "--timeout=8m")
        # Those that are replaced end what they have begun.
        nodes.wait(
            lambda: {name.rpartition("-")[0] for name in left()} == set(nodes.STATE), 180, "the old pods"
        )
    assert nodes_of(cluster)["haproxy"] == {"node1", "node2"}
    states = load.ends(180)
    assert load.failures == []
    assert states == {"SUCCEEDED": len(load.tasks)}
    assert min(load.done[kind] for kind in ("put", "get", "submit", "registry", "uid", "keys")) > 10


def test_the_manifests_are_the_same_objects(cluster: nodes.Cluster, site: Written) -> None:
    base = site.chart.parent / "kubernetes/base"
    cluster.copy(base, "/root/base")
    # Whose they are is told anew, and nothing else: the server would change nothing of them.
    arguments = ("-k", "/root/base", "--server-side", "--force-conflicts", "--dry-run=server", "-o", "json")
    found = json.loads(cluster.kubectl("apply", *arguments))["items"]
    present = {
        f"{item['kind']}/{item['metadata']['name']}": item["metadata"]
        for item in cluster.get("deployments,statefulsets", f"-n{NAMESPACE}")
    }
    generations = {
        name: item["metadata"]["generation"]
        for item in found
        if (name := f"{item['kind']}/{item['metadata']['name']}") in present
    }
    assert generations == {name: metadata["generation"] for name, metadata in present.items()}


def test_connections_have_their_policies(cluster: nodes.Cluster, site: Written) -> None:
    there = {policy["metadata"]["name"] for policy in cluster.get("networkpolicies", f"-n{NAMESPACE}")}
    wanted = {name.partition("/")[2] for name in site.objects if name.startswith("NetworkPolicy/")}
    assert there >= wanted - {"smoke"}
    assert len(wanted) >= 11


def test_all_pods_but_caverns_would_do_with_the_restricted_standard(cluster: nodes.Cluster) -> None:
    command = ["docker", "exec", nodes.NODES[0], "/kube/kube", "kubectl", "--kubeconfig=/run/kube/admin.conf"]
    label = [
        "label",
        "--dry-run=server",
        "--overwrite",
        "namespace",
        NAMESPACE,
        "pod-security.kubernetes.io/enforce=restricted",
    ]
    done = subprocess.run([*command, *label], capture_output=True, text=True, check=True)
    told = re.findall(r"Warning: ([a-z0-9-]+?)-[a-z0-9]+-[a-z0-9]{5}: ", done.stderr)
    assert Counter(told) == {"src-cavern": 1}, done.stderr


def test_a_release_is_saved_and_restored(
    cluster: nodes.Cluster, site: Written, shared: Path, entry: Entry, tmp_path: Path
) -> None:
    def running() -> Counter[str]:
        return Counter(pod["metadata"]["labels"]["app.kubernetes.io/name"] for pod in pods(cluster))

    load = Load(entry, entry.token("saved", site.secrets), "saved")
    load.prepare()
    load.put("kept.dat", b"before")
    inventory = site.chart.parents[1] / "inventory"
    access = ("-i", str(inventory), "-e", f"kubernetes_kubeconfig={nodes.kubeconfig(shared)}")
    assert changes(run_playbook(*access, "playbooks/kubernetes_backup.yml", "-e", f"backup_dir={tmp_path}"))
    (backup,) = tmp_path.iterdir()
    load.put("kept.dat", b"after")
    before = running()
    source = ("-e", f"backup_source={backup}", "-e", "kubernetes_restore_replace=true")
    assert changes(run_playbook(*access, "playbooks/kubernetes_restore.yml", *source))
    assert load.get("kept.dat") == b"before"
    assert running() == before
    assert load.failures == []
    assert "REVISION: " in cluster.helm("upgrade", "cavern", "/root/chart", f"-n{NAMESPACE}", "--wait")


def test_a_node_that_dies_under_load_loses_nothing(
    cluster: nodes.Cluster, site: Written, entry: Entry
) -> None:
    """With whatever runs on it, the databases perhaps among that; whoever operates the cluster removes it."""
    dids = [f"testing:dies-{number:04d}.dat" for number in range(FILES)]
    listed = "".join(f"{DID.parse(did).path()} {did}\n" for did in dids)
    script = 'while read -r path did; do mkdir -p "/srv/rse/${path%/*}" && printf %s "$did" >"/srv/rse/$path"; done'
    cluster.execute("sh", "-c", script, stdin=listed)
    load = Load(entry, entry.token("unlucky", site.secrets), "unlucky")
    load.prepare()
    load.submit([{"did": did} for did in dids], "dies")
    nodes.wait(lambda: (load.look().get("files_done") or 0) > FILES // 20, 120, "the first files")
    nodes.run("docker", "kill", nodes.NODES[1])
    assert (load.look().get("files_done") or 0) < FILES
    cluster.kubectl("delete", "node", "node2", "--wait=false")
    gone = ("--field-selector=spec.nodeName=node2", "--force", "--grace-period=0")
    cluster.kubectl("delete", "pods", "--all-namespaces", *gone)
    # Requests fail until the last service has come up on the other node; the task does not.
    task = nodes.wait(lambda: found if (found := load.look()).get("state") in FINAL else None, 600, "its end")
    assert (task["state"], task["files_done"], task["files_failed"]) == ("SUCCEEDED", FILES, 0), task
    area = "/srv/space/cavern/home/unlucky/dies"
    assert cluster.execute("ls", "-A", area).split() == [did.partition(":")[2] for did in dids]
    whole = f'cd {area} && for file in *; do printf "testing:%s" "$file" | cmp - "$file" || exit 1; done'
    cluster.execute("sh", "-c", whole)
