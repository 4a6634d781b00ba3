"""A sign that the worker reaches the ledger, for the container's health check."""

from __future__ import annotations

import time
from pathlib import Path

PATH = Path("/tmp/prepare-data-worker.heartbeat")  # noqa: S108 - a tmpfs of the container's own
AGE = 15.0
"""Seconds after which a worker that gave no sign counts as ill."""


def beat() -> None:
    """Give a sign."""
    PATH.write_text(str(time.time()))


def healthy() -> bool:
    """Whether there was a sign lately."""
    try:
        return time.time() - float(PATH.read_text()) < AGE
    except (OSError, ValueError):
        return False
