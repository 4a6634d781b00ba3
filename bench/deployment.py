"""Runs of ``site.yml`` against docker-compose, which brings up the same containers to the same health.

The Compose file is the deployment's own (``playbooks/compose.yml``): the same images, health checks and volumes.
docker-compose makes no host, certificates, secrets, images or configuration, as ``site.yml`` does besides. Where there
are no images yet, it is given them in an archive, and they are built for ``site.yml``.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/support"))
from compose import Compose
from deployment import Deployment, playbook

RUNS = 3


def _median(
    act: Callable[[], object], before: Callable[[], object] = lambda: None, runs: int = RUNS
) -> float:
    seconds = []
    for _ in range(runs):
        before()
        begin = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def _result(measurement: str, ours: float, peer: float) -> dict[str, Any]:
    return {
        "measurement": measurement,
        "ours_seconds": round(ours, 2),
        "peer": "docker-compose",
        "peer_seconds": round(peer, 2),
        "ratio": round(ours / peer, 2),
    }


def measure() -> Iterator[dict[str, Any]]:
    """Yield the results; the deployment must stand, and stands again afterwards."""

    def site() -> None:
        playbook("site.yml")

    def down() -> None:
        playbook("playbooks/down.yml")

    def purge() -> None:
        playbook("playbooks/purge.yml", "-e", "purge_images=true")

    def site_and_smoke() -> None:
        site()
        playbook("playbooks/smoke.yml")

    site()
    warm = _median(site)
    cold = _median(site, before=down)
    bare = _median(site_and_smoke, before=purge, runs=1)
    compose = Compose(Deployment.of())
    with tempfile.TemporaryDirectory() as directory:
        archive = Path(directory) / "images.tar"
        playbook("playbooks/images_save.yml", "-e", f"images_bundle={archive}")

        def load_and_up() -> None:
            compose.load(archive)
            compose.up()

        down()
        try:
            compose.up()
            peer_warm = _median(compose.up)
            peer_cold = _median(compose.up, before=compose.down)
            peer_bare = _median(load_and_up, before=compose.forget_images, runs=1)
        finally:
            compose.down()
            site()
    yield _result("unchanged site.yml", warm, peer_warm)
    yield _result("containers from built images to all healthy, by site.yml", cold, peer_cold)
    yield _result(
        "from no images to the passed smoke test; the peer's are loaded, its smoke left out", bare, peer_bare
    )
