"""An unchanged ``site.yml``, against ``ansible-playbook`` running one task that does nothing."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/support"))
from deployment import playbook

RUNS = 3
NOTHING = "- hosts: localhost\n  gather_facts: false\n  tasks: [{ansible.builtin.ping: }]\n"


def _median(path: str) -> float:
    seconds = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        playbook(path)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def measure() -> Iterator[dict[str, Any]]:
    """Yield the result; the deployment must stand."""
    playbook("site.yml")
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as nothing:
        nothing.write(NOTHING)
        nothing.flush()
        ours, peer = _median("site.yml"), _median(nothing.name)
    yield {
        "measurement": "unchanged site.yml",
        "ours_seconds": round(ours, 2),
        "peer": "ansible-playbook with one ping",
        "peer_seconds": round(peer, 2),
        "ratio": round(ours / peer, 2),
    }
