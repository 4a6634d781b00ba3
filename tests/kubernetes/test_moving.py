"""A deployment with its data moves from Docker to a cluster and back: nothing may be different, and all goes on."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_nodes as nodes
import pytest
import tasks
import yaml
from deployment import ROOT, Deployment, playbook
from kubernetes_load import Entry, Load
from kubernetes_release import NAMESPACE, SETTINGS, entry_of
from kubernetes_site import Written, run_playbook, write
from user_space import Space

# The first run compiles what the fixtures use.
pytestmark = pytest.mark.timeout(3600)
NAME = "cavern.moving.example"
DOCKER: dict[str, Any] = {
    "deployment_project": "cavern-moving",
    "deployment_public_name": NAME,
    "deployment_publish_address": "127.0.0.46",
    "deployment_container_prefix": "cavern-moving-",
    "deployment_image_prefix": "cavern",
    "deployment_network": {"name": "cavern-moving", "subnet": "172.28.46.0/24", "bridge": "cavernmoving"},
}
CLUSTER = SETTINGS | {
    "deployment_project": "cavern-moving",
    "deployment_public_name": NAME,
    "deployment_authority": "opencadc.org",
}
DATABASES = {"srcnodedb": ["cavern", "prepare_data"], "postgres_posixmapper": ["mapping"]}
TABLES = (
    "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables "
    "WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1"
)
# Which numbers come next: two users must not get one uid after a move.
SEQUENCES = "SELECT schemaname, sequencename, last_value FROM pg_sequences ORDER BY 1, 2"
FILLED = {
    "cavern.vospace.job": "jobs",
    "prepare_data.public.tasks": "tasks",
    "prepare_data.public.files": "files of tasks",
    "prepare_data.public.events": "what happened to them",
    "mapping.mapping.users": "uids",
    "mapping.mapping.groups": "gids",
    "mapping sequences": "the next uid and gid",
}
"""What must be there for a comparison to say anything, by what it is called in a snapshot."""
TITLE = "ivo://ivoa.net/vospace/core#title"
WRITERS = "ivo://ivoa.net/vospace/core#groupwrite"
STAGED = b"SIMPLE  =                    T" * 96


def files(root: Path) -> list[str]:
    """Return all nodes: owner, mode, time to the nanosecond, content or target, ACL and attributes."""
    found = []
    for path in sorted([root, *root.rglob("*")]):
        if ".vospace-usage" in path.parts:
            # A service marks when it began to count.
            continue
        status = path.lstat()
        names = sorted(os.listxattr(path, follow_symlinks=False))
        attributes = {name: os.getxattr(path, name, follow_symlinks=False).hex() for name in names}
        if path.is_symlink():
            content = str(path.readlink())
        else:
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        owner = f"{status.st_uid}:{status.st_gid} {status.st_mode:o} {status.st_mtime_ns}"
        found.append(f"/{path.relative_to(root)} {owner} {content} {attributes}")
    return found


class Docker:
    """The deployment in Docker."""

    def __init__(self, directory: Path) -> None:
        """Keep everything in a directory."""
        self.directory = directory
        self.inventory = directory / "inventory"
        shutil.copytree(ROOT / "tests/inventory", self.inventory)
        settings = DOCKER | {"deployment_project_dir": str(directory)}
        (self.inventory / "group_vars/all/moving.yml").write_text(yaml.safe_dump(settings))

    def play(self, book: str, *arguments: str) -> str:
        """Run a playbook."""
        return playbook(book, *arguments, inventory=str(self.inventory)).stdout

    @property
    def site(self) -> Deployment:
        """The deployment as it is now."""
        return Deployment.of(str(self.inventory))

    def snapshot(self) -> dict[str, list[str]]:
        """Return all files, receipts, and rows."""
        site = self.site
        found = {
            "space": files(site.data / "cavern_data"),
            "receipts": files(site.logs / "celery_results"),
        }
        for service, databases in DATABASES.items():
            for database in databases:
                found[f"{database} sequences"] = site.sql(service, database, SEQUENCES).splitlines()
                for table in site.sql(service, database, TABLES).splitlines():
                    rows = site.sql(service, database, f"TABLE {table}").splitlines()
                    found[f"{database}.{table}"] = sorted(rows)
        return found


class Moved:
    """The deployment in the cluster."""

    def __init__(self, cluster: nodes.Cluster, site: Written, kubeconfig: Path) -> None:
        """Reach the cluster by a file with the access to it."""
        self.cluster = cluster
        self.site = site
        self.kubeconfig = kubeconfig
        mounted = ("docker", "volume", "inspect", "--format={{.Mountpoint}}", nodes.SHARED)
        self.volumes = Path(nodes.run(*mounted).strip())

    def play(self, book: str, *arguments: str, check: bool = True) -> str:
        """Run a playbook, which tells no secret."""
        inventory = self.site.chart.parents[1] / "inventory"
        access = ("-e", f"kubernetes_kubeconfig={self.kubeconfig}")
        done = run_playbook("-i", str(inventory), f"playbooks/{book}.yml", *access, *arguments)
        text = done.stdout + done.stderr
        assert (done.returncode == 0) == check, text
        known = self.site.chart.parent / "secrets.yml"
        if known.exists():
            secrets = yaml.safe_load(known.read_text()).values()
            assert not any(secret in text for secret in secrets if len(secret) > 12)
        if check and "--check" not in arguments:
            assert not self.leftovers()
        return text

    def leftovers(self) -> list[str]:
        """Return what a backup or a restore should have taken away."""
        listed = self.cluster.get("pods,networkpolicies,configmaps", f"-n{NAMESPACE}")
        names = [item["metadata"]["name"] for item in listed]
        return [name for name in names if name in ("backup", "restore", "skasrc-cavern-restore")]

    def sql(self, service: str, database: str, statement: str) -> list[str]:
        """Run a statement as the database's superuser."""
        pod = f"{service.replace('_', '-')}-0"
        psql = ("psql", "-qXAtd", database, "-c", statement)
        return self.cluster.kubectl("exec", pod, f"-n{NAMESPACE}", "--", *psql).strip().splitlines()

    def snapshot(self) -> dict[str, list[str]]:
        """Return all files, receipts, and rows."""
        found = {
            name: files(self.volumes / volume)
            for name, volume in (("space", "space"), ("receipts", "results"))
        }
        for service, databases in DATABASES.items():
            for database in databases:
                found[f"{database} sequences"] = self.sql(service, database, SEQUENCES)
                for table in self.sql(service, database, TABLES):
                    found[f"{database}.{table}"] = sorted(self.sql(service, database, f"TABLE {table}"))
        return found

    @property
    def secrets(self) -> dict[str, str]:
        """The generated secrets by name."""
        loaded: dict[str, str] = yaml.safe_load((self.site.chart.parent / "secrets.yml").read_text())
        return loaded

    def entry(self) -> Entry:
        """Return its public name."""
        return entry_of(self.cluster, self.site, NAME)


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """Deploy in Docker, and have two users work there."""
    found = Docker(tmp_path_factory.mktemp("docker"))
    try:
        found.play("site.yml", "--skip-tags", "images")
        fill(found.site)
        yield found
    finally:
        found.play("playbooks/purge.yml", "-e", "purge_data=true")


def fill(site: Deployment) -> None:
    """Make nodes of two users, with properties, permissions and a link, and stage files."""
    ada, brahe = Space(site, "ada"), Space(site, "brahe")
    group = f"{ada.groups}observers"
    assert ada.make("/home/ada").status_code == 201
    assert ada.make("/home/ada/survey", {TITLE: "Images of the survey", WRITERS: group}).status_code == 201
    assert ada.put("/home/ada/survey/image.fits", STAGED).status_code == 201
    assert ada.make("/home/ada/latest", kind="LinkNode", target="/home/ada/survey").status_code == 201
    assert brahe.make("/home/brahe").status_code == 201
    assert brahe.put("/home/brahe/of brahe's & others.dat", b"b" * 70_000).status_code == 201
    assert brahe.move("/home/brahe/of brahe's & others.dat", "/home/brahe/mine.dat")[0] == "COMPLETED"
    place = site.data / "rse_data/testing/84/1c/prepare_data_test.txt"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"staged\n")
    with site.session("ada") as http:
        wanted = [{"did": "testing:prepare_data_test.txt"}]
        task = tasks.ended(http, tasks.submit(http, site.url, files=wanted, destination="staged"))
        assert task["state"] == "SUCCEEDED", task
        site.receipt(task["id"])
        lost = tasks.ended(
            http, tasks.submit(http, site.url, files=[{"did": "testing:not-there"}], destination="no")
        )
        assert lost["state"] == "FAILED", lost


@pytest.fixture(scope="module")
def moved(docker: Docker, programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moved]:
    """Start a cluster that has nothing yet."""
    shared = tmp_path_factory.mktemp("shared")
    try:
        cluster = nodes.start(programs, shared, nodes.images())
        nodes.storage(cluster, NAMESPACE)
        site = write(tmp_path_factory.mktemp("site"), CLUSTER, "kubernetes")
        # A machine that has seen neither deployment.
        shutil.rmtree(site.chart.parent)
        yield Moved(cluster, site, nodes.kubeconfig(shared))
    finally:
        nodes.stop()


def saved(told: str) -> Path:
    """Return the directory of the backup that a run has made."""
    (found,) = set(re.findall(r"msg: (/\S+-\d{8}T\d{6}Z)", told))
    return Path(found)


def test_a_deployment_moves_to_a_cluster_and_back(docker: Docker, moved: Moved) -> None:
    site = docker.site
    secrets = dict(site.secrets)
    before = docker.snapshot()
    assert len(before["space"]) > 8
    assert len(before["prepare_data.public.tasks"]) == 2, before.keys()
    assert [name for name in FILLED if not before.get(name)] == [], before.keys()
    token = site.token("ada")
    source = ("-e", f"backup_source={saved(docker.play('playbooks/backup.yml'))}")
    docker.play("playbooks/purge.yml", "-e", "purge_data=true")

    # Into the cluster.
    assert changes_nothing(moved, source)
    moved.play("kubernetes_restore", *source)
    arrived = moved.snapshot()
    for name, what in FILLED.items():
        assert arrived.get(name) == before[name], what
    assert differences(before, arrived) == []
    assert changed_secrets(secrets, moved.secrets) == set()
    entry = moved.entry()
    bearer = {"Authorization": f"Bearer {token}"}
    answer = entry("GET", "/src/cavern/files/home/ada/survey/image.fits", bearer)
    assert (answer.status, answer.data) == (200, STAGED)
    history = entry("GET", "/prepare-data/v1/tasks", bearer).json()["tasks"]
    assert [task["state"] for task in history] == ["FAILED", "SUCCEEDED"]

    # What is there is not replaced unless that is said; then nothing of it is left.
    told = moved.play("kubernetes_restore", *source, check=False)
    assert "kubernetes_namespace: cavern has databases already" in " ".join(told.split())
    load = stage(moved, entry, "brahe")
    assert differences(before, moved.snapshot()) != []
    moved.play("kubernetes_restore", *source, "-e", "kubernetes_restore_replace=true")
    assert differences(before, moved.snapshot()) == []

    # And back, with what was done in the cluster.
    load = stage(moved, entry, "brahe")
    assert load.failures == []
    after = moved.snapshot()
    backup = saved(moved.play("kubernetes_backup", "-e", f"backup_dir={docker.directory}/from-cluster"))
    assert {path.stat().st_mode & 0o777 for path in backup.iterdir()} <= {0o600, 0o644}
    assert backup.stat().st_mode & 0o777 == 0o700
    docker.play("playbooks/restore.yml", "-e", f"backup_source={backup}", "--skip-tags", "images")
    back = docker.snapshot()
    for name, what in FILLED.items():
        assert back.get(name) == after[name], what
    assert differences(after, back) == []
    assert changed_secrets(secrets, docker.site.secrets) == set()
    ada = Space(docker.site, "ada", bearer=token)
    assert ada.get("/files/home/ada/survey/image.fits").content == STAGED
    assert ada.properties("/home/ada/survey")[TITLE] == "Images of the survey"


def changes_nothing(moved: Moved, source: tuple[str, str]) -> bool:
    """Return whether a restore in check mode tells of changes and makes none."""
    told = moved.play("kubernetes_restore", "--check", "--diff", *source)
    assert "would be restored" in told
    spaces = {item["metadata"]["name"] for item in moved.cluster.get("namespaces")}
    return NAMESPACE not in spaces and not moved.site.chart.parent.exists()


def stage(moved: Moved, entry: Entry, user: str) -> Load:
    """Stage a file in the cluster."""
    place = moved.volumes / "rse/testing/84/1c/prepare_data_test.txt"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"staged\n")
    load = Load(entry, entry.token(user, moved.secrets), user)
    load.submit([{"did": "testing:prepare_data_test.txt"}], "in the cluster")
    assert load.ends(180) == {"SUCCEEDED": 1}
    return load


def changed_secrets(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """Return the names, never the values, of what is missing, new or another."""
    return {name for name in {*before, *after} if before.get(name) != after.get(name)}


def differences(before: dict[str, list[str]], after: dict[str, list[str]]) -> list[str]:
    """Return what one has and the other has not."""
    found = []
    for name in sorted({*before, *after}):
        old, new = before.get(name, []), after.get(name, [])
        found += [f"gone: {name}: {line}" for line in old if line not in new]
        found += [f"new: {name}: {line}" for line in new if line not in old]
    return found
