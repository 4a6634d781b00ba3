"""Random kills under load: what users were told is true afterwards, and nothing is lost or half there.

CAVERN_KILLS is how many there are, and CAVERN_KILLS_SEED which.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_nodes as nodes
import pytest
from kubernetes_kills import ABSENT, Killer, User, at_work, content, fill, sha256
from kubernetes_release import NAMESPACE, SETTINGS, entry_of, running, settled
from kubernetes_site import write
from tasks import FINAL

pytestmark = [pytest.mark.timeout(7200), pytest.mark.slow]
KILLS = int(os.environ.get("CAVERN_KILLS", "20"))
SEED = int(os.environ.get("CAVERN_KILLS_SEED", "1"))
STAGING = ".vospace-"


class Site:
    """A deployment in a cluster, its users, and where its volumes are on this machine."""

    def __init__(self, cluster: nodes.Cluster, users: list[User]) -> None:
        """Find the volumes."""
        self.cluster = cluster
        self.users = users
        self.volumes = nodes.volumes()

    @property
    def homes(self) -> Path:
        """Directory of all users' areas."""
        return self.volumes / "space/cavern/home"

    def sql(self, database: str, statement: str) -> list[str]:
        """Run a statement in the databases of jobs and of the ledger."""
        psql = ("psql", "-qXAtd", database, "-c", statement)
        return self.cluster.kubectl("exec", "srcnodedb-0", f"-n{NAMESPACE}", "--", *psql).strip().splitlines()


@pytest.fixture(scope="module")
def site(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Install the chart in a cluster, with an area for each user and a pool of files."""
    # Whoever wants no interruption has two of Cavern; here they also take over from each other.
    settings = SETTINGS | {"deployment_service_overrides": {"cavern": {"replicas": 2}}}
    directory = tmp_path_factory.mktemp("site")
    written = write(directory, settings, "kubernetes", "kubernetes_secrets", "chart")
    with running(programs, tmp_path_factory.mktemp("shared"), written) as cluster:
        entry = entry_of(cluster, written)
        users = [
            User(name, entry, entry.token(name, written.secrets), SEED * 10 + number)
            for number, name in enumerate(("ada", "brahe"))
        ]
        found = Site(cluster, users)
        fill(found.volumes / "rse")
        for user in users:
            user.prepare()
        yield found


def ended(user: User) -> dict[str, dict[str, Any]]:
    """Wait for the ends of all tasks that a user has, whether or not the user was told of them."""
    deadline = time.monotonic() + 900
    while True:
        found: dict[str, dict[str, Any]] = {}
        before = ""
        while True:
            page = user.look(f"/prepare-data/v1/tasks?limit=200{before}")
            found |= {task["id"]: task for task in page["tasks"]}
            if page["next"] is None:
                break
            before = f"&before={page['next'].replace('+', '%2B')}"
        waiting = [task for task in found.values() if task["state"] not in FINAL]
        if not waiting:
            return found
        assert time.monotonic() < deadline, (
            f"{len(waiting)} of {len(found)} tasks have not ended: {waiting[:3]}"
        )
        time.sleep(2)


def test_kills_lose_nothing(site: Site) -> None:
    killer = Killer(site.cluster, SEED)
    begun = time.monotonic()
    with at_work(site.users):
        for _number in range(KILLS):
            time.sleep(killer.chosen.uniform(1, 6))
            killer.kill()
        seconds = time.monotonic() - begun
        nodes.wait(lambda: settled(site.cluster), 600, "all pods to be ready")
        time.sleep(5)
    faults: list[str] = []
    counts: Counter[str] = Counter()
    for user in site.users:
        faults += user.wrong
        faults += check_files(site, user, counts)
        faults += check_tasks(site, user, counts)
    # What dead processes have left, the next ones remove when they start.
    site.cluster.kubectl("rollout", "restart", "deployment/src-cavern", f"-n{NAMESPACE}")
    site.cluster.kubectl("rollout", "status", "deployment/src-cavern", f"-n{NAMESPACE}", "--timeout=5m")

    def staged() -> list[Path]:
        return list(site.homes.rglob(f"{STAGING}*"))

    deadline = time.monotonic() + 60
    while staged() and time.monotonic() < deadline:
        time.sleep(1)
    faults += [f"{path}: is left" for path in staged()]
    unfinished = "SELECT id, phase FROM vospace.job WHERE phase IN ('QUEUED', 'EXECUTING', 'SUSPENDED')"
    faults += [f"job {row} has not ended" for row in site.sql("cavern", unfinished)]
    print(f"\n{KILLS} kills in {seconds:.0f} s, seed {SEED}: {dict(Counter(killer.done))}")
    print(f"{dict(counts)}; answers: {[dict(user.answers) for user in site.users]}")
    assert faults == []
    assert counts["tasks"] > KILLS / 2
    assert counts["files"] > KILLS


def check_files(site: Site, user: User, counts: Counter[str]) -> list[str]:
    """Return where a file is another than what its user may expect."""
    faults = []
    for name, kept in user.kept.items():
        path = site.homes / user.name / name
        found = sha256(path.read_bytes()) if path.exists() else ABSENT
        counts["files"] += 1
        counts["files without an answer"] += len(kept) > 1
        if found not in kept:
            faults.append(f"{user.name}/{name}: {'lost' if found == ABSENT else 'another content'}")
    return faults


def check_tasks(site: Site, user: User, counts: Counter[str]) -> list[str]:
    """Return where a task's end is not what is there."""
    tasks = ended(user)
    faults = [
        f"task {made.id} was accepted and is not known"
        for made in user.requests
        if made.id and made.id not in tasks
    ]
    owner = (site.homes / user.name).stat().st_uid
    for task in tasks.values():
        counts["tasks"] += 1
        counts[task["state"]] += 1
        items = user.look(f"/prepare-data/v1/tasks/{task['id']}/files")["files"]
        good = [item for item in items if item["state"] in ("STAGED", "PRESENT")]
        counts["staged files"] += len(good)
        if (task["state"] == "SUCCEEDED") != (len(good) == len(items)) or task["files_done"] != len(good):
            faults.append(f"task {task['id']} is {task['state']}, with {len(good)} of {len(items)} files")
        faults += [f"task {task['id']}: {item}" for item in items if item["state"] == "FAILED"]
        for item in good:
            path = site.homes.parent / item["target"].lstrip("/")
            if not path.exists():
                faults.append(f"{path}: is {item['state']} and is not there")
            elif path.read_bytes() != content(item["did"]) or path.stat().st_uid != owner:
                faults.append(f"{path}: is not whole, or another's")
    return faults
