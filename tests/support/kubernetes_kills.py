"""Kills in a cluster, and users who go on working meanwhile: what they were told is held against what is there."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kubernetes_nodes as nodes
import urllib3
from kubernetes_load import Entry
from kubernetes_release import NAMESPACE, pods
from prepare_data_client.did import DID
from vospace_client.documents import node_document

POOL = 400
"""Files of the RSE that are staged again and again."""
ABSENT = ""


def did(number: int) -> str:
    """Return the identifier of a file of the RSE."""
    return f"testing:killed-{number:04d}.dat"


def content(text: str, most: int = 200_000) -> bytes:
    """Return a content that a text decides, of up to *most* bytes."""
    chosen = random.Random(text)
    return chosen.randbytes(chosen.randrange(most))


def sha256(data: bytes) -> str:
    """Return a content's checksum."""
    return hashlib.sha256(data).hexdigest()


def fill(rse: Path) -> None:
    """Put the pool on the RSE."""
    for number in range(POOL):
        path = rse / DID.parse(did(number)).path()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(did(number)))


@dataclass
class Request:
    """A task that was asked for; without an id nobody was told whether it was accepted."""

    files: list[str]
    destination: str
    id: str = ""


@dataclass
class User:
    """A user who writes, replaces and removes files, and has others staged."""

    name: str
    entry: Entry
    token: str
    seed: int
    kept: dict[str, set[str]] = field(default_factory=dict)
    """What each path may have: checksums, or nothing; more than one where no answer came."""
    requests: list[Request] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def ask(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> Any:
        """Return the answer to a request, None where there was none."""
        headers = {"Authorization": f"Bearer {self.token}"} | ({"Content-Type": kind} if kind else {})
        try:
            answer = self.entry(method, path, headers, body)
        except urllib3.exceptions.HTTPError as error:
            self.answers[f"{method} {type(error).__name__}"] += 1
            return None
        self.answers[f"{method} {answer.status}"] += 1
        return answer

    def look(self, path: str) -> Any:
        """Return a document that there is."""
        answer = self.ask("GET", path)
        assert answer is not None
        assert answer.status == 200, answer.data
        return answer.json()

    @property
    def area(self) -> str:
        """Path of the user's area."""
        return f"/src/cavern/files/home/{self.name}"

    def prepare(self) -> None:
        """Make the user's area."""
        path = self.area.replace("/files/", "/nodes/")
        assert self.ask("PUT", path, node_document("ContainerNode"), "text/xml").status == 201

    def put(self, name: str, text: str) -> None:
        """Write a file, new or another's in its place."""
        data = content(f"{self.seed} {text}")
        before = self.kept.get(name, {ABSENT})
        self.kept[name] = before | {sha256(data)}
        answer = self.ask("PUT", f"{self.area}/{name}", data)
        if answer is not None and answer.status in (200, 201):
            self.kept[name] = {sha256(data)}

    def delete(self, name: str) -> None:
        """Remove a file."""
        self.kept[name] |= {ABSENT}
        answer = self.ask("DELETE", f"{self.area.replace('/files/', '/nodes/')}/{name}")
        if answer is not None and answer.status in (200, 204):
            self.kept[name] = {ABSENT}

    def read(self, name: str) -> None:
        """Read a file whose content is known."""
        (wanted,) = self.kept[name]
        answer = self.ask("GET", f"{self.area}/{name}")
        if answer is None or answer.status >= 500:
            return
        found = sha256(answer.data) if answer.status == 200 else ABSENT
        if found != wanted or answer.status not in (200, 404):
            self.wrong.append(f"GET {name}: {answer.status}, {len(answer.data)} bytes, not what was written")

    def write_files(self, stop: threading.Event) -> None:
        """Go on writing until told to stop. What no answer came for is left alone: it may still be done."""
        chosen = random.Random(self.seed)
        number = 0
        while not stop.wait(0.05):
            certain = [name for name, kept in self.kept.items() if len(kept) == 1]
            there = [name for name in certain if self.kept[name] != {ABSENT}]
            what = chosen.random()
            if what < 0.4 or not there:
                self.put(f"file-{number}.dat", f"new {number}")
                number += 1
            elif what < 0.6:
                self.put(chosen.choice(there), f"other {number} {chosen.random()}")
            elif what < 0.75:
                self.delete(chosen.choice(there))
            else:
                self.read(chosen.choice(certain))

    def stage_files(self, stop: threading.Event) -> None:
        """Go on asking for files until told to stop."""
        chosen = random.Random(-self.seed)
        while not stop.wait(0.5):
            numbers = chosen.sample(range(POOL), chosen.choice([1, 5, 50]))
            made = Request([did(number) for number in numbers], f"staged/{len(self.requests)}")
            self.requests.append(made)
            body = json.dumps(
                {"files": [{"did": name} for name in made.files], "destination": made.destination}
            )
            answer = self.ask("POST", "/prepare-data/v1/tasks", body.encode(), "application/json")
            if answer is not None and answer.status == 201:
                made.id = answer.json()["id"]


@contextmanager
def at_work(users: list[User]) -> Iterator[None]:
    """Have users work until the block ends."""
    stop = threading.Event()
    workers = [
        threading.Thread(target=work, args=(stop,))
        for user in users
        for work in (user.write_files, user.stage_files)
    ]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        stop.set()
        for worker in workers:
            worker.join()


class Killer:
    """Kills pods of all services, and now and then the second node, in an order that a seed decides."""

    def __init__(self, cluster: nodes.Cluster, seed: int) -> None:
        """Begin with the seed."""
        self.cluster = cluster
        self.chosen = random.Random(seed)
        self.done: list[str] = []

    def kill(self) -> None:
        """Kill once: every tenth time the node, else a service's pod, each service with the same chance."""
        if self.chosen.random() < 0.1:
            self.node()
            return
        by_service: dict[str, list[dict[str, Any]]] = {}
        for pod in pods(self.cluster):
            if pod["status"].get("containerStatuses") and "deletionTimestamp" not in pod["metadata"]:
                by_service.setdefault(pod["metadata"]["labels"]["app.kubernetes.io/name"], []).append(pod)
        service = self.chosen.choice(sorted(by_service))
        self.pod(service, self.chosen.choice(by_service[service]))

    def pod(self, service: str, pod: dict[str, Any]) -> None:
        """End a pod's processes as the kernel does where memory is short; half of the pods go, too."""
        (status,) = pod["status"]["containerStatuses"]
        identity = str(status.get("containerID", "")).rpartition("/")[2]
        number = int(pod["spec"]["nodeName"][-1]) - 1
        ctr = ("ctr", "--namespace=k8s.io", "tasks", "kill", "--signal=SIGKILL", identity)
        if identity:
            self.cluster.execute(*ctr, node=nodes.NODES[number], check=False)
        # After its second end the kubelet would wait longer each time.
        gone = status["restartCount"] > 0 or self.chosen.random() < 0.5
        if gone:
            name = pod["metadata"]["name"]
            now = ("--force", "--grace-period=0", "--wait=false")
            self.cluster.kubectl("delete", "pod", name, f"-n{NAMESPACE}", *now, check=False)
        self.done.append(f"{service}{' with its pod' if gone else ''}")

    def node(self) -> None:
        """Take the second node's power away, and give it back some seconds later."""
        nodes.run("docker", "kill", nodes.NODES[1])
        time.sleep(self.chosen.uniform(0, 15))
        nodes.run("docker", "start", nodes.NODES[1])
        subprocess.run(["docker", "exec", nodes.NODES[1], "node", "2", nodes.SUBNET], check=True)
        self.done.append("node2")
