"""Files relayed by the worker into a Cavern that does not pull, against curl writing the same files there.

It needs a deployment of OpenCADC's flavour, and measures nothing on another. What a request costs is Cavern's: with
the stand-ins of tests/contract, ``STANDIN_DELAY_MS`` says how long each takes. curl makes one request for each file;
it verifies nothing, and readers see its files while they are written.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
from prepare_data_client.did import DID

from bench.staging import _files, _follow

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/support"))
from deployment import Deployment

FILES, SIZE, CLIENTS = 200, 10_240, 16


def _put(stack: Deployment, run: str, user: str, dids: list[str]) -> float:
    """Seconds that curl takes to write the files beside those that were staged."""
    url = f"{stack.url}/src/cavern/files/home/{user}/{run}"
    with tempfile.TemporaryDirectory() as answers:
        requested = []
        for number, did in enumerate(dids):
            options = {
                "url": f"{url}/peer-{number}",
                "cacert": stack.ca,
                "header": f"Authorization: Bearer {stack.token(user)}",
                "upload-file": str(stack.data / "rse_data" / DID.parse(did).path()),
                "output": f"{answers}/{number}",
            }
            given = "".join(f"{name} = {json.dumps(value)}\n" for name, value in options.items())
            requested.append(f"fail\nsilent\nshow-error\nhttp1.1\n{given}")
        command = [
            "curl",
            "--no-progress-meter",
            "--parallel",
            "--parallel-max",
            str(CLIENTS),
            "--config",
            "-",
        ]
        begin = time.perf_counter()
        subprocess.run(command, input="next\n".join(requested), text=True, check=True)
        return time.perf_counter() - begin


def _relay(stack: Deployment, http: requests.Session, run: str, dids: list[str]) -> float:
    """Seconds until files are staged of which the request says size and MD5, as Rucio knows them."""
    files = []
    for did in dids:
        content = (stack.data / "rse_data" / DID.parse(did).path()).read_bytes()
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        files.append({"did": did, "size": len(content), "md5": md5})
    begin = time.perf_counter()
    body = {"files": files, "destination": run}
    answer = http.post(f"{stack.url}/prepare-data/v1/tasks", json=body, timeout=120)
    answer.raise_for_status()
    _follow(stack, http, answer.json()["id"])
    return time.perf_counter() - begin


def _requests(stack: Deployment, since: float) -> int:
    """Requests that HAProxy has passed on to Cavern."""
    lines = stack.container("haproxy").logs(since=since).decode(errors="replace").splitlines()
    return sum(json.loads(line)["backend"] == "cavern" for line in lines if line.startswith("{"))


def measure() -> Iterator[dict[str, Any]]:
    """Yield the results."""
    stack = Deployment.of()
    capabilities = stack.session().get(f"{stack.url}/src/cavern/capabilities", timeout=60).text
    if "bulk-pull" in capabilities:
        return
    with _files(stack, FILES, SIZE) as (run, user, dids), stack.session(user) as http:
        # The area, and that this Cavern does not pull.
        _relay(stack, http, f"{run}-first", dids[:1])
        begun = time.time()
        seconds = _relay(stack, http, run, dids[1:])
        asked = _requests(stack, begun)
        peer = _put(stack, run, user, dids[1:])
        yield {
            "measurement": f"{FILES - 1} files of 10 KiB relayed",
            "files_per_second": round((FILES - 1) / seconds, 1),
            "requests_per_file": round(asked / (FILES - 1), 1),
            "peer": "curl, 16 at once",
            "peer_files_per_second": round((FILES - 1) / peer, 1),
            "ratio": round(seconds / peer, 2),
        }
