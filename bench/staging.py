"""Files staged by prepare-data, against rclone and aria2c fetching them from the same rse-web to the same disk.

prepare-data authenticates, records and verifies every file (size, MD5 and Adler-32), and hands it to its owner; the
peers copy. The ratio is what that costs. MD5 is computed by one core, and bounds what one large file can reach.

Submissions and memory have no peer: they are figures of this service alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from prepare_data_client.did import DID

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/support"))
from deployment import Deployment

CASES = [("10,000 files of 10 KiB", 10_000, 10_240), ("one file of 2 GiB", 1, 2 * 2**30)]
MEMORY_CASES = [1_000, 100_000]
SUBMISSIONS, USERS, CLIENTS = 2_000, 20, 32
CONTAINERS = {
    "core": "ska-src-local-data-preparer-core",
    "worker": "ska-src-local-data-preparer-celery-worker",
}
FINAL = {"SUCCEEDED", "FAILED", "CANCELLED", "LOST"}


def _remove(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)


def _place(stack: Deployment, run: str, count: int, size: int) -> list[str]:
    dids = [f"bench:{run}_{number:05d}" for number in range(count)]
    length = min(size, 2**20)
    chunk = (uuid.uuid4().bytes * (length // 16 + 1))[:length]
    for did in dids:
        path = stack.data / "rse_data" / DID.parse(did).path()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            for _ in range(size // len(chunk)):
                stream.write(chunk)
    return dids


def _submit(stack: Deployment, http: requests.Session, run: str, dids: list[str]) -> str:
    body = {"files": [{"did": did} for did in dids], "destination": run}
    answer = http.post(f"{stack.url}/prepare-data/v1/tasks", json=body, timeout=120)
    answer.raise_for_status()
    return str(answer.json()["id"])


def _follow(stack: Deployment, http: requests.Session, task: str) -> None:
    url = f"{stack.url}/prepare-data/v1/tasks/{task}"
    while (document := http.get(url, timeout=60).json())["state"] not in FINAL:
        time.sleep(0.1)
    if document["state"] != "SUCCEEDED":
        raise RuntimeError(document["info"])


def _stage(stack: Deployment, http: requests.Session, run: str, dids: list[str]) -> float:
    begin = time.perf_counter()
    _follow(stack, http, _submit(stack, http, run, dids))
    return time.perf_counter() - begin


def _rse_url(stack: Deployment) -> str:
    (network,) = stack.container("rse-web").attrs["NetworkSettings"]["Networks"].values()
    return f"http://{network['IPAddress']}/rse/deterministic/"


def _rclone(stack: Deployment, dids: list[str], target: Path) -> float:
    names = target.with_suffix(".txt")
    names.write_text("".join(DID.parse(did).path() + "\n" for did in dids))
    command = ["rclone", "copy", "--transfers", "16", "--checkers", "16", "--no-traverse"]
    command += ["--files-from-raw", str(names), "--http-url", _rse_url(stack), ":http:", str(target)]
    begin = time.perf_counter()
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - begin
    names.unlink()
    return seconds


def _aria2c(stack: Deployment, dids: list[str], target: Path) -> float:
    names = target.with_suffix(".txt")
    url = _rse_url(stack)
    names.write_text("".join(f"{url}{DID.parse(did).path()}\n" for did in dids))
    command = ["aria2c", "-j16", "--quiet", "--allow-overwrite=true", "--file-allocation=none"]
    begin = time.perf_counter()
    subprocess.run([*command, f"--input-file={names}", f"--dir={target}"], check=True)
    seconds = time.perf_counter() - begin
    names.unlink()
    return seconds


def _rclone_and_sync(stack: Deployment, dids: list[str], target: Path) -> float:
    """Until the files are on the disk, as ours are when they count as staged."""
    seconds = _rclone(stack, dids, target)
    begin = time.perf_counter()
    os.sync()
    return seconds + time.perf_counter() - begin


PEERS = {
    "rclone copy --transfers 16": _rclone,
    "rclone copy --transfers 16, then sync": _rclone_and_sync,
    "aria2c -j16": _aria2c,
}


@contextmanager
def _files(stack: Deployment, count: int, size: int) -> Iterator[tuple[str, str, list[str]]]:
    """Files on the RSE for one user: the run's name, the user's and the DIDs. All is removed at the end."""
    run = uuid.uuid4().hex[:8]
    user = f"bench{run}"
    dids = _place(stack, run, count, size)
    try:
        yield run, user, dids
    finally:
        _remove(stack.data / "cavern_data/cavern/home" / user)
        for did in dids:
            (stack.data / "rse_data" / DID.parse(did).path()).unlink(missing_ok=True)


def _settle(stack: Deployment) -> None:
    """Let the disk write out what was made and discard what was removed, at the cost of nothing that is measured: when
    a small file can be staged again, whose row and message are synchronised, it is done with that."""
    os.sync()
    with _files(stack, 1, 10) as (run, user, dids), stack.session(user) as http:
        _stage(stack, http, run, dids)


def _throughput(stack: Deployment, name: str, count: int, size: int) -> Iterator[dict[str, Any]]:
    with _files(stack, count, size) as (run, user, dids):
        _settle(stack)
        with stack.session(user) as http:
            ours = _stage(stack, http, run, dids)
        for peer, fetch in PEERS.items():
            target = stack.data / "cavern_data" / f".bench-{run}"
            _settle(stack)
            try:
                theirs = fetch(stack, dids, target)
            finally:
                _remove(target)
            yield {
                "measurement": f"staging {name}",
                "ours_seconds": round(ours, 2),
                "peer": peer,
                "peer_seconds": round(theirs, 2),
                "ratio": round(ours / theirs, 2),
            }


def _submissions(stack: Deployment) -> dict[str, Any]:
    """Requests of one file each by many users at once, by curl, which leaves the cores to the services; each is then
    followed to its end."""
    with _files(stack, SUBMISSIONS, 10) as (run, user, dids), tempfile.TemporaryDirectory() as answers:
        users = [f"{user}{number}" for number in range(USERS)]
        requested = []
        for number, did in enumerate(dids):
            body = json.dumps({"files": [{"did": did}], "destination": run})
            options = [
                ("url", f"{stack.url}/prepare-data/v1/tasks"),
                ("cacert", stack.ca),
                ("header", f"Authorization: Bearer {stack.token(users[number % USERS])}"),
                ("header", "Content-Type: application/json"),
                ("data", body),
                ("output", f"{answers}/{number}"),
            ]
            given = "".join(f"{name} = {json.dumps(value)}\n" for name, value in options)
            requested.append(f"fail\nsilent\nshow-error\nhttp1.1\n{given}")
        command = [
            "curl",
            "--parallel",
            "--parallel-max",
            str(CLIENTS),
            "--config",
            "-",
        ]
        begin = time.perf_counter()
        subprocess.run(command, input="next\n".join(requested), text=True, check=True)
        seconds = time.perf_counter() - begin
        for whose in users:
            with stack.session(whose) as http:
                for number in range(users.index(whose), SUBMISSIONS, USERS):
                    _follow(stack, http, json.loads(Path(answers, str(number)).read_text())["id"])
            _remove(stack.data / "cavern_data/cavern/home" / whose)
    return {
        "measurement": f"{SUBMISSIONS} submissions by {USERS} users, all of them staged afterwards",
        "per_second": round(SUBMISSIONS / seconds),
    }


def _memory(stack: Deployment, count: int) -> dict[str, Any]:
    """Most memory that the services held while so many files were staged in one request."""
    peak = dict.fromkeys(CONTAINERS, 0)
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            for service, name in CONTAINERS.items():
                peak[service] = max(peak[service], stack.memory(name))

    with _files(stack, count, 16) as (run, user, dids), stack.session(user) as http:
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            seconds = _stage(stack, http, run, dids)
        finally:
            ended.set()
            watcher.join()
    return {
        "measurement": f"one request of {count:,} files",
        "milliseconds_per_file": round(seconds / count * 1000, 2),
        **{f"{service}_MiB": round(most / 2**20) for service, most in peak.items()},
    }


def measure() -> Iterator[dict[str, Any]]:
    """Yield the results one after the other; the deployment must stand."""
    for program in ("rclone", "aria2c"):
        if shutil.which(program) is None:
            raise SystemExit(f"bench: {program} is a peer; install it (apt-get install rclone aria2)")
    stack = Deployment.of()
    for name, count, size in CASES:
        yield from _throughput(stack, name, count, size)
    yield _submissions(stack)
    for count in MEMORY_CASES:
        yield _memory(stack, count)
