"""Files staged by prepare-data, against rclone fetching the same files from the same rse-web to the same disk.

prepare-data authenticates, records and verifies every file twice over (size, MD5 and Adler-32), and hands it to its
owner; rclone copies. The ratio is what that costs.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
from preparer.did import DID

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/support"))
from deployment import Deployment

CASES = [("10,000 files of 10 KiB", 10_000, 10_240), ("one file of 2 GiB", 1, 2 * 2**30)]
FINAL = {"SUCCEEDED", "FAILED", "CANCELLED", "LOST"}


def _place(stack: Deployment, run: str, count: int, size: int) -> list[str]:
    dids = [f"bench:{run}_{number:05d}" for number in range(count)]
    chunk = uuid.uuid4().bytes * (min(size, 2**20) // 16)
    for did in dids:
        path = stack.data / "rse_data" / DID.parse(did).path()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            for _ in range(size // len(chunk)):
                stream.write(chunk)
    return dids


def _stage(stack: Deployment, http: requests.Session, run: str, dids: list[str]) -> float:
    api = f"{stack.url}/prepare-data/v1/tasks"
    body = {"files": [{"did": did} for did in dids], "destination": run}
    begin = time.perf_counter()
    answer = http.post(api, json=body, timeout=120)
    answer.raise_for_status()
    task = answer.json()["id"]
    while (document := http.get(f"{api}/{task}", timeout=60).json())["state"] not in FINAL:
        time.sleep(0.1)
    seconds = time.perf_counter() - begin
    if document["state"] != "SUCCEEDED":
        raise RuntimeError(document["info"])
    return seconds


def _rclone(stack: Deployment, dids: list[str], target: Path) -> float:
    address = stack.container("rse-web").attrs["NetworkSettings"]["Networks"]["docker26"]["IPAddress"]
    names = target.with_suffix(".txt")
    names.write_text("".join(DID.parse(did).path() + "\n" for did in dids))
    command = [
        "rclone",
        "copy",
        "--transfers",
        "16",
        "--checkers",
        "16",
        "--no-traverse",
        "--files-from-raw",
        str(names),
    ]
    begin = time.perf_counter()
    subprocess.run(
        [*command, "--http-url", f"http://{address}/rse/deterministic/", ":http:", str(target)], check=True
    )
    seconds = time.perf_counter() - begin
    names.unlink()
    return seconds


def measure() -> Iterator[dict[str, Any]]:
    """Yield one result for each case."""
    if shutil.which("rclone") is None:
        raise SystemExit("bench: rclone is the peer; install it (apt-get install rclone)")
    stack = Deployment()
    for name, count, size in CASES:
        run = uuid.uuid4().hex[:8]
        user = f"bench{run}"
        target = stack.data / "cavern_data" / f".rclone-{run}"
        dids = _place(stack, run, count, size)
        try:
            with stack.session(user) as http:
                ours = _stage(stack, http, run, dids)
            peer = _rclone(stack, dids, target)
        finally:
            shutil.rmtree(target, ignore_errors=True)
            shutil.rmtree(stack.data / "cavern_data/cavern/home" / user, ignore_errors=True)
            for did in dids:
                (stack.data / "rse_data" / DID.parse(did).path()).unlink(missing_ok=True)
        yield {
            "measurement": f"staging {name}",
            "ours_seconds": round(ours, 2),
            "peer": "rclone copy --transfers 16",
            "peer_seconds": round(peer, 2),
            "ratio": round(ours / peer, 2),
        }
