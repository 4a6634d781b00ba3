"""Heartbeat file, written while the worker reaches the ledger, for the container's health check."""

from __future__ import annotations

import time
from pathlib import Path

PATH = Path("/tmp/prepare-data-worker.heartbeat")  # noqa: S108 - a tmpfs of the container's own
AGE = 15.0
"""Seconds after the last heartbeat at which a worker counts as unhealthy."""


def beat() -> None:
    """Write the heartbeat."""
    PATH.write_text(str(time.time()))


def healthy() -> bool:
    """Whether the last heartbeat is recent."""
    try:
        return time.time() - float(PATH.read_text()) < AGE
    except (OSError, ValueError):
        return False
