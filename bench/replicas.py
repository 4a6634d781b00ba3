"""Staging and node operations in a cluster, with 1, 2 and 4 replicas of Cavern and of the worker.

The cluster is that of tests/kubernetes: two nodes that are containers of one machine, so more replicas have no more
cores. What each part takes of them for an operation is measured with the rates, and a model (`bench.capacity`) predicts
from the points of one replica what all of them reach with the cores that other work on the machine left, and what ten
machines would.

It needs Docker, the images of a deployment and what `make test-kubernetes` needs, and no deployment. The client's share
is that of curl and of this program. ``BENCH_ROUNDS`` is how often each point is measured, in turn with the others.
"""

from __future__ import annotations

import json
import math
import os
import resource
import statistics
import sys
import tempfile
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from prepare_data_client.did import DID
from vospace_client.documents import node_document

from bench.capacity import Machines, Part, Prediction, predict
from bench.vospace import CONTAINER, burst

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/support"))
import kubernetes_nodes as nodes
import kubernetes_programs
from kubernetes_load import Entry
from kubernetes_release import NAMESPACE, SETTINGS, entry_of, pods, running, settled
from kubernetes_site import write
from tasks import FINAL

REPLICAS = (1, 2, 4)
SCALED = {"cavern": "src-cavern", "worker": "ska-src-local-data-preparer-celery-worker"}
"""What has replicas, by the name in the results."""
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
FILES, SIZE = 10_000, 10_240
USERS, TASKS_EACH = ("ada", "brahe", "cannon", "dyson"), 4
"""As many tasks at once as four users may have: a task stays with its worker, so one alone would have one worker."""
NODES = 2_000
IDLE_SECONDS = 10.0
STAGING = "files staged"
OPERATIONS = ("PUT", "GET", "DELETE")
FLUSHES = "flushes of the database's log"
PARTS = {
    "src-cavern": "cavern",
    "ska-src-local-data-preparer-celery-worker": "worker",
    "ska-src-local-data-preparer-core": "core",
    "ska-src-local-data-preparer-rabbitmq": "rabbitmq",
    "srcnodedb": "postgresql",
    "haproxy": "haproxy",
    "rse-web": "rse-web",
}
"""Parts by the names of their pods; what is not here is counted together."""
PROCESSES = {"cavern": 2, "worker": 1, "core": 1}
"""Processes of Python in a pod."""
OTHERS, KUBERNETES, CLIENT, MACHINE = "other services", "kubernetes", "client", "rest of the machine"
PREDICTED = 10
"""Nodes of the prediction: each with a pod of everything that can have several."""
MANY = 1_000_000

READ_GROUPS = """
groups=/sys/fs/cgroup
[ ! -d $groups/cpuacct ] || groups=$groups/cpuacct
used() {
  if [ -f "$1/cpuacct.usage" ]
  then cat "$1/cpuacct.usage"
  else awk '/^usage_usec/ {printf "%.0f\\n", $2 * 1000}' "$1/cpu.stat"
  fi
}
echo "node $(used $groups)"
for pod in $groups/kubepods/pod* $groups/kubepods/*/pod*; do
  [ ! -d "$pod" ] || echo "${pod##*/pod} $(used "$pod")"
done
"""
"""Nanoseconds of a node and of its pods, whichever version of control groups the machine has."""

Result = dict[str, Any]
Seconds = dict[str, float]


@dataclass(frozen=True)
class Point:
    """What was seen while something ran: its operations, their seconds, and CPU seconds by part."""

    operations: int
    seconds: float
    elapsed: float
    """From one reading of CPU time to the other, a little more."""
    used: Seconds
    flushing: float
    """Seconds in which the database flushed its log."""

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.operations / self.seconds


@dataclass
class Series:
    """The points of one operation with one number of replicas, and what was used without any before each."""

    points: list[Point] = field(default_factory=list)
    idle: list[Seconds] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """The median rate."""
        return statistics.median(point.rate for point in self.points)

    def cores(self, part: str) -> float:
        """Cores that a part used, the median."""
        return statistics.median(point.used[part] / point.elapsed for point in self.points)

    def idles(self, part: str) -> float:
        """Cores that a part takes without any operation."""
        return statistics.median(idle[part] for idle in self.idle)

    def cpu(self, part: str) -> float:
        """CPU seconds of an operation in a part, beyond what it takes anyway."""
        each = (
            (point.used[part] - idle[part] * point.elapsed) / point.operations
            for point, idle in zip(self.points, self.idle, strict=True)
        )
        return max(0.0, statistics.median(each))

    @property
    def flushing(self) -> float:
        """Seconds of an operation in which the database flushes its log."""
        return statistics.median(point.flushing / point.operations for point in self.points)

    @property
    def parts(self) -> list[str]:
        """All that takes time, what takes most of it first."""
        found = {part for point in self.points for part in point.used}
        return sorted(found, key=lambda part: -self.cpu(part))


def machine_seconds() -> float:
    """CPU seconds of this machine, in which its cores were not idle."""
    user, nice, system, _idle, _waiting, interrupts, soft = map(
        int, Path("/proc/stat").read_text().split(maxsplit=8)[1:8]
    )
    return (user + nice + system + interrupts + soft) / os.sysconf("SC_CLK_TCK")


def client_seconds() -> float:
    """CPU seconds of this program and of those that it has run."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


class Site:
    """The deployment in the cluster, and its users."""

    def __init__(self, cluster: nodes.Cluster, entry: Entry, secrets: dict[str, str]) -> None:
        """Give each user an area, and put the files on the RSE."""
        self.cluster, self.entry = cluster, entry
        self.tokens = {user: entry.token(user, secrets) for user in USERS}
        self.dids = [f"bench:replicas_{number:05d}" for number in range(FILES)]
        self.names: dict[str, str] = {}
        """The pods' names by their uids."""
        content = os.urandom(SIZE)
        for did in self.dids:
            path = nodes.volumes() / "rse" / DID.parse(did).path()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for user in USERS:
            self.ask(user, "PUT", f"/src/cavern/nodes/home/{user}", CONTAINER, "text/xml")
        # What it waits for its log is counted from here on.
        self.sql("ALTER SYSTEM SET track_wal_io_timing = on")
        self.sql("SELECT pg_reload_conf()")
        nodes.wait(lambda: self.sql("SHOW track_wal_io_timing") == "on", 30, "the database's new setting")

    def sql(self, statement: str) -> str:
        """Run a statement in the database of jobs and of the ledger, as its superuser."""
        psql = ("psql", "-qXAtc", statement)
        return self.cluster.kubectl("exec", "srcnodedb-0", f"-n{NAMESPACE}", "--", *psql).strip()

    def ask(self, user: str, method: str, path: str, body: bytes | None = None, kind: str = "") -> Any:
        """Return a good answer."""
        headers = {"Authorization": f"Bearer {self.tokens[user]}"} | ({"Content-Type": kind} if kind else {})
        answer = self.entry(method, path, headers, body)
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {answer.data[:300]!r}")
        return answer

    def scale(self, replicas: int) -> None:
        """Give Cavern and the worker so many pods, and wait until there are these and no others, all ready."""
        for name in SCALED.values():
            self.cluster.kubectl("scale", f"deployment/{name}", f"-n{NAMESPACE}", f"--replicas={replicas}")

        def there() -> bool:
            found = Counter(pod["metadata"]["labels"]["app.kubernetes.io/name"] for pod in pods(self.cluster))
            return all(found[name] == replicas for name in SCALED.values()) and settled(self.cluster)

        nodes.wait(there, 300, f"{replicas} replicas")
        self.names = {
            pod["metadata"]["uid"]: pod["metadata"]["labels"]["app.kubernetes.io/name"]
            for pod in pods(self.cluster)
        }

    def pod_seconds(self) -> Seconds:
        """Return CPU seconds of the nodes by parts, since they were started."""
        found: Seconds = defaultdict(float)
        for node in nodes.NODES:
            told = dict(
                line.split() for line in self.cluster.execute("sh", "-c", READ_GROUPS, node=node).splitlines()
            )
            whole = int(told.pop("node")) / 1e9
            for uid, used in told.items():
                seconds = int(used) / 1e9
                # Groups of pods that have ended are of no interest, and remain for a while.
                if uid in self.names:
                    found[PARTS.get(self.names[uid], OTHERS)] += seconds
                whole -= seconds
            found[KUBERNETES] += whole
        return found

    def point(self, operations: int, work: Callable[[], float]) -> Point:
        """Do some operations, which return the seconds that they took."""
        flushed = float(self.sql("SELECT wal_sync_time FROM pg_stat_wal"))
        pods_before = self.pod_seconds()
        begun, machine, client = time.perf_counter(), machine_seconds(), client_seconds()
        seconds = work()
        client, machine = client_seconds() - client, machine_seconds() - machine
        elapsed = time.perf_counter() - begun
        used = {part: after - pods_before[part] for part, after in self.pod_seconds().items()}
        used |= {CLIENT: client, MACHINE: machine - client - sum(used.values())}
        flushing = float(self.sql("SELECT wal_sync_time FROM pg_stat_wal")) - flushed
        return Point(operations, seconds, elapsed, used, flushing / 1000)

    def idle(self) -> Seconds:
        """Return the cores that each part takes while nobody asks for anything."""

        def nothing() -> float:
            time.sleep(IDLE_SECONDS)
            return IDLE_SECONDS

        point = self.point(1, nothing)
        return {part: seconds / point.elapsed for part, seconds in point.used.items()}

    def stage(self, dids: list[str]) -> float:
        """Stage files by some tasks of each user, and return the seconds from the first request to the last end."""
        run = uuid.uuid4().hex[:8]
        tasks = len(USERS) * TASKS_EACH
        for number in range(tasks):
            files = [{"did": did} for did in dids[number::tasks]]
            body = json.dumps({"files": files, "destination": f"{run}/{number}"}).encode()
            self.ask(USERS[number % len(USERS)], "POST", "/prepare-data/v1/tasks", body, "application/json")
        ended: list[Result] = []
        for user in USERS:
            while True:
                found = self.ask(user, "GET", f"/prepare-data/v1/tasks?limit={TASKS_EACH}").json()["tasks"]
                if all(task["state"] in FINAL for task in found):
                    break
                time.sleep(0.5)
            ended += found
        done = sum(task["files_done"] for task in ended)
        if done != len(dids) or {task["state"] for task in ended} != {"SUCCEEDED"}:
            raise RuntimeError(f"{done} of {len(dids)} files were staged: {[task['info'] for task in ended]}")
        # The services' own times, all of one clock: how often was asked does not count.
        times = [[datetime.fromisoformat(task[name]) for name in ("created", "finished")] for task in ended]
        return (max(end for _, end in times) - min(begin for begin, _ in times)).total_seconds()

    def node_operations(self, count: int) -> Iterator[tuple[str, Callable[[], float]]]:
        """Return what makes, reads and removes nodes in a container of their own, in this order."""
        user = USERS[0]
        box = f"/src/cavern/nodes/home/{user}/nodes-{uuid.uuid4().hex[:8]}"
        self.ask(user, "PUT", box, CONTAINER, "text/xml")
        urls = [f"https://{self.entry.name}{box}/{number}" for number in range(count)]
        address = f"{self.entry.name}:443:{self.entry.pool.host}:{self.entry.pool.port}"
        options = (
            "--cacert",
            str(self.entry.pool.ca_certs),
            "--connect-to",
            address,
            "-H",
            "Content-Type: text/xml",
        )
        header = f"Authorization: Bearer {self.tokens[user]}"
        for method in OPERATIONS:
            body = node_document("ContainerNode") if method == "PUT" else None
            yield method, partial(self._burst, method, urls, body, header, options)

    @staticmethod
    def _burst(
        method: str, urls: list[str], body: bytes | None, header: str, options: tuple[str, ...]
    ) -> float:
        return len(urls) / burst(method, urls, body, header, options)


@contextmanager
def deployed() -> Iterator[Site]:
    """Install the chart in a cluster, for as long as the block takes."""
    programs = kubernetes_programs.directory()
    with tempfile.TemporaryDirectory() as made, tempfile.TemporaryDirectory() as shared:
        written = write(Path(made), SETTINGS, "kubernetes", "kubernetes_secrets", "chart")
        with running(programs, Path(shared), written) as cluster:
            yield Site(cluster, entry_of(cluster, written), written.secrets)


def measured(site: Site) -> dict[tuple[str, int], Series]:
    """Return the points of each operation with each number of replicas, all of them in turn."""
    found: dict[tuple[str, int], Series] = defaultdict(Series)
    for _ in range(ROUNDS):
        for replicas in REPLICAS:
            site.scale(replicas)
            # All processes have answered some hundred requests, and hold what they look up once.
            site.stage(site.dids[: FILES // 10 * replicas])
            for _, work in site.node_operations(NODES // 4 * replicas):
                work()
            idle = site.idle()
            points = {STAGING: site.point(FILES, lambda: site.stage(site.dids))}
            for method, work in site.node_operations(NODES):
                points[f"node {method}"] = site.point(NODES, work)
            for operation, point in points.items():
                found[operation, replicas].points.append(point)
                found[operation, replicas].idle.append(idle)
    return found


def parts_of(one: Series, pods_of: Callable[[str], float]) -> list[Part]:
    """Return what each part takes as it did with one replica, with other numbers of pods."""
    return [
        Part(part, one.cpu(part), pods_of(part), max(0.0, one.idles(part)), PROCESSES.get(part, math.inf))
        for part in one.parts
        if part != MACHINE
    ]


def here(one: Series, replicas: int, point: Point) -> Prediction:
    """Predict what was seen on this machine: of its cores, those that other work left, and the client shares them."""
    parts = parts_of(one, lambda part: replicas if part in SCALED else 1)
    left = (os.cpu_count() or 1) - point.used[MACHINE] / point.elapsed
    return predict(parts, Machines(1, left), {FLUSHES: one.flushing})


def elsewhere(one: Series, count: int) -> Prediction:
    """Predict what machines like this one do, with clients and whatever else runs here elsewhere.

    There is one database and one broker; of all else each machine has a pod.
    """
    single = {"postgresql": 1.0, "rabbitmq": 1.0, KUBERNETES: count / len(nodes.NODES)}
    parts = parts_of(one, lambda part: single.get(part, count))
    others = [part for part in parts if part.name != CLIENT]
    return predict(others, Machines(count, os.cpu_count() or 1), {FLUSHES: one.flushing})


def results(found: dict[tuple[str, int], Series]) -> Iterator[Result]:
    """Yield what was measured beside what the model says of it, and what it says of more machines."""
    for (operation, replicas), series in sorted(
        found.items(), key=lambda item: (item[0][0] != STAGING, item[0][0])
    ):
        expected = [here(found[operation, 1], replicas, point) for point in series.points]
        rates = [point.rate for point in series.points]
        cores = os.cpu_count() or 1
        yield {
            "measurement": f"{operation}, {replicas} replicas",
            "ours": round(series.rate),
            "range": [round(min(rates)), round(max(rates))],
            "unit": "/s",
            "cpu_ms": {part: round(series.cpu(part) * 1000, 3) for part in series.parts},
            "percent_of_cores": {part: round(100 * series.cores(part) / cores, 1) for part in series.parts},
            "busy_percent": round(100 * sum(series.cores(part) for part in series.parts) / cores),
            "flush_ms": round(series.flushing * 1000, 3),
            "predicted": round(statistics.median(one.rate for one in expected)),
            "limits": sorted({one.limit for one in expected}),
            "deviation_percent": round(
                100
                * statistics.median(one.rate / rate - 1 for one, rate in zip(expected, rates, strict=True))
            ),
        }
    for operation in dict.fromkeys(operation for operation, _ in found):
        one = found[operation, 1]
        predicted = elsewhere(one, PREDICTED)
        yield {
            "measurement": f"{operation}, {PREDICTED} nodes, predicted",
            "ours": round(predicted.rate),
            "unit": "/s",
            "limit": predicted.limit,
            "limits": {
                name: round(rate) for name, rate in sorted(predicted.limits.items(), key=lambda x: x[1])
            },
            f"minutes_for_{MANY}": round(MANY / predicted.rate / 60, 1),
            f"minutes_for_{MANY}_with_one_replica": round(MANY / one.rate / 60, 1),
        }


def measure() -> Iterator[Result]:
    """Yield the results."""
    with deployed() as site:
        found = measured(site)
    yield from results(found)
