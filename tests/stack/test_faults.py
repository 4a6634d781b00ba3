"""Faults while files are staged: whatever is killed or cut off, every accepted file ends whole, or truly failed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from deployment import CATALOGUE, Deployment
from prepare_data_client.did import DID
from tasks import FINAL

Place = Callable[[str, bytes], Path]
COUNT = 2000
CORE = "ska-src-local-data-preparer-core"
WORKER = "ska-src-local-data-preparer-celery-worker"
BROKER = "ska-src-local-data-preparer-rabbitmq"
LEDGER = "srcnodedb"
CAVERN = "src-cavern"
RSE = "rse-web"
PROXY = "haproxy"
IAM = "iam"
MAPPER = "src-posix-mapper"
MAPPERS_DATABASE = "postgres_posixmapper"
# Those that talk to each other while files are staged: Cavern's jobs lie in the ledger's server too. Callers reach
# Cavern, core, issuer and mapper through the proxy.
PAIRS = [
    (WORKER, PROXY),
    (PROXY, CAVERN),
    (WORKER, LEDGER),
    (WORKER, BROKER),
    (CORE, LEDGER),
    (CORE, BROKER),
    (CAVERN, RSE),
    (CAVERN, LEDGER),
]
FURTHER_PAIRS = [
    (PROXY, CORE),
    (CORE, PROXY),
    (CAVERN, PROXY),
    (PROXY, IAM),
    (PROXY, MAPPER),
    (MAPPER, MAPPERS_DATABASE),
]


class Staging:
    """A request of many files that is under way."""

    def __init__(self, stack: Deployment, http: requests.Session, user: str, rse: Place) -> None:
        """Place the files and submit them."""
        self.http = http
        run = uuid.uuid4().hex[:8]
        self.area = stack.data / "cavern_data/cavern/home" / user / run
        self.content: dict[str, bytes] = {}
        for number in range(COUNT):
            did = f"testing:{run}_{number:05d}.dat"
            self.content[did] = f"{did} ".encode() * 200
            rse(DID.parse(did).path(), self.content[did])
        self.tasks = f"{stack.url}/prepare-data/v1/tasks"
        body = {"files": [{"did": did} for did in self.content], "destination": run}
        answer = http.post(self.tasks, json=body, timeout=60)
        assert answer.status_code == 201, answer.text
        self.task = answer.json()["id"]

    def get(self, path: str = "", **parameters: Any) -> dict[str, Any]:
        """Ask as a patient client does: what is away for a moment is asked again."""
        deadline = time.monotonic() + 90
        while True:
            try:
                answer = self.http.get(f"{self.tasks}/{self.task}{path}", params=parameters, timeout=20)
                if answer.status_code < 500:
                    assert answer.status_code == 200, answer.text
                    document: dict[str, Any] = answer.json()
                    return document
                reason = answer.text
            except requests.RequestException as exc:
                reason = str(exc)
            assert time.monotonic() < deadline, reason
            time.sleep(0.3)

    def final(self) -> dict[str, Any]:
        """The task at its end."""
        deadline = time.monotonic() + 240
        while (document := self.get())["state"] not in FINAL:
            assert time.monotonic() < deadline, document
            time.sleep(0.5)
        return document

    def check(self) -> None:
        """Compare what is told of every file with what is on disk."""
        task = self.final()
        files = self.get("/files", limit=COUNT)["files"]
        assert len(files) == COUNT
        for file in files:
            path = self.area / file["did"].partition(":")[2]
            if file["state"] in {"STAGED", "PRESENT"}:
                assert path.read_bytes() == self.content[file["did"]]
            else:
                assert file["state"] == "FAILED"
                assert file["detail"]
        assert {path.name for path in self.area.iterdir()} <= {did.partition(":")[2] for did in self.content}
        # All of these faults pass, and the service outlasts them.
        assert task["state"] == "SUCCEEDED", task["info"]
        assert (task["files_done"], task["files_failed"]) == (COUNT, 0)


def kill(stack: Deployment, name: str) -> None:
    """Kill a container's first process, and with it all; the engine starts it again, as after any crash."""
    os.kill(stack.container(name).attrs["State"]["Pid"], signal.SIGKILL)


def wait_until_healthy(stack: Deployment, name: str) -> None:
    """Wait until a container's own check passes."""
    deadline = time.monotonic() + 90
    while stack.container(name).attrs["State"].get("Health", {}).get("Status") != "healthy":
        assert time.monotonic() < deadline, f"{name} does not become healthy"
        time.sleep(0.5)


@pytest.mark.parametrize("name", [WORKER, CORE, BROKER, LEDGER, CAVERN, RSE])
def test_killed_while_staging(
    stack: Deployment, http: requests.Session, user: str, rse: Place, name: str
) -> None:
    staging = Staging(stack, http, user, rse)
    # Anywhere between the request's first and last moment.
    time.sleep(random.uniform(0, 1.5))
    kill(stack, name)
    staging.check()
    wait_until_healthy(stack, name)


@pytest.mark.parametrize("name", [WORKER, CORE, BROKER, LEDGER, CAVERN, RSE])
def test_cut_off_while_staging(
    stack: Deployment, http: requests.Session, user: str, rse: Place, name: str
) -> None:
    container = stack.container(name)
    ((network_name, attached),) = container.attrs["NetworkSettings"]["Networks"].items()
    network = stack.engine.networks.get(network_name)
    staging = Staging(stack, http, user, rse)
    time.sleep(random.uniform(0, 1.0))
    network.disconnect(container, force=True)
    try:
        time.sleep(5)
    finally:
        network.connect(container, aliases=attached["Aliases"], ipv4_address=attached["IPAddress"])
    staging.check()
    wait_until_healthy(stack, name)


def firewall(stack: Deployment, name: str, action: str, other: str, *target: str) -> None:
    """Add to or delete from what a container's own firewall says of another container, in both directions."""
    pid = stack.container(name).attrs["State"]["Pid"]
    (network,) = stack.container(other).attrs["NetworkSettings"]["Networks"].values()
    for chain, end in (("INPUT", "--source"), ("OUTPUT", "--destination")):
        rule = [chain, end, network["IPAddress"], "--protocol", "tcp", "--jump", *target]
        inside = ["nsenter", f"--net=/proc/{pid}/ns/net", "iptables", "--wait", action, *rule]
        subprocess.run(inside, check=True, capture_output=True)


def reaches(stack: Deployment, one: str, other: str) -> bool:
    """Whether a connection from a container to the port of another comes about."""
    pid = stack.container(one).attrs["State"]["Pid"]
    (network,) = stack.container(other).attrs["NetworkSettings"]["Networks"].values()
    (port,) = {entry["port"] for entry in CATALOGUE.values() if entry["container"] == other}
    connect = f"import socket; socket.create_connection(({network['IPAddress']!r}, {port}), 1)"
    inside = ["nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, "-c", connect]
    return subprocess.run(inside, check=False, capture_output=True).returncode == 0


@contextmanager
def cut(stack: Deployment, one: str, other: str, *target: str) -> Iterator[None]:
    """Let nothing pass between two containers, which both still reach all others."""
    assert reaches(stack, one, other)
    firewall(stack, one, "--insert", other, *target)
    try:
        assert not reaches(stack, one, other)
        yield
    finally:
        firewall(stack, one, "--delete", other, *target)


@pytest.mark.parametrize(
    ("one", "other", "seconds"),
    [
        *((*pair, 4) for pair in PAIRS),
        *(pytest.param(*pair, 4, marks=pytest.mark.slow) for pair in FURTHER_PAIRS),
        # Longer than a worker's lease and than a connection survives.
        *(pytest.param(*pair, 45, marks=pytest.mark.slow) for pair in PAIRS),
    ],
)
def test_cut_off_from_each_other_while_staging(
    stack: Deployment, http: requests.Session, user: str, rse: Place, one: str, other: str, seconds: float
) -> None:
    """What they send vanishes, as in a broken cable; then it is refused, as by a host that came up anew."""
    staging = Staging(stack, http, user, rse)
    time.sleep(random.uniform(0, 1.0))
    with cut(stack, one, other, "DROP"):
        time.sleep(seconds)
    with cut(stack, one, other, "REJECT", "--reject-with", "tcp-reset"):
        time.sleep(2)
    staging.check()
    for name in (one, other):
        wait_until_healthy(stack, name)


def test_a_worker_that_stood_still_goes_on(
    stack: Deployment, http: requests.Session, user: str, rse: Place
) -> None:
    """Paused, it answers nobody and closes no connection."""
    staging = Staging(stack, http, user, rse)
    time.sleep(random.uniform(0, 1.0))
    with stack.paused(WORKER):
        time.sleep(5)
    staging.check()
