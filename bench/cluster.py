"""From nothing to a staged file on two nodes of Kubernetes, step by step.

The cluster is that of tests/kubernetes, whose needs it has, and the images of a deployment must be there. There is no
peer: the steps' seconds show where the time goes.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/support"))
import kubernetes_nodes as nodes
import kubernetes_programs
from kubernetes_release import SETTINGS, install, place_file, smoke_test
from kubernetes_site import write


class Steps:
    """How long the steps took, by name."""

    def __init__(self) -> None:
        """Begin without any."""
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what the block does."""
        begin = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - begin, 1)


def measure() -> Iterator[dict[str, Any]]:
    """Yield the seconds of each step and of all."""
    programs, images = kubernetes_programs.directory(), nodes.images()
    steps = Steps()
    with tempfile.TemporaryDirectory() as directory:
        shared = Path(directory, "shared")
        shared.mkdir()
        try:
            with steps.step("the chart and its secrets written"):
                site = write(Path(directory), SETTINGS, "kubernetes", "kubernetes_secrets", "chart")
            with steps.step("two nodes ready, with the images"):
                cluster = nodes.start(programs, shared, images)
            with steps.step("the chart installed, all pods ready"):
                install(cluster, site)
            with steps.step("a file staged by helm test"):
                place_file(cluster)
                smoke_test(cluster)
        finally:
            nodes.stop()
    total = round(sum(steps.seconds.values()), 1)
    yield {"measurement": "from nothing to a staged file on two nodes", **steps.seconds, "seconds": total}
