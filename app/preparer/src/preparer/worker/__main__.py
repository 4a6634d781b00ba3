"""Command line: ``prepare-data-worker``, and ``prepare-data-worker --health`` for the container's health check."""

from __future__ import annotations

import sys
import time
from pathlib import Path


def healthy(heartbeat: Path, age: float = 15.0) -> bool:
    """Whether the worker has reached the ledger lately. Celery is not imported: this runs every few seconds."""
    try:
        return time.time() - float(heartbeat.read_text()) < age
    except (OSError, ValueError):
        return False


def main() -> None:
    """Run the command."""
    if sys.argv[1:] == ["--health"]:
        sys.exit(0 if healthy(Path("/tmp/prepare-data-worker.heartbeat")) else 1)  # noqa: S108 - as in the runner
    if sys.argv[1:]:
        sys.exit("usage: prepare-data-worker [--health]")
    from voservice.config import load
    from voservice.logging import configure

    from preparer.config import PreparerSettings
    from preparer.worker.service import Worker

    settings = load(PreparerSettings)
    configure("prepare-data-worker", settings.log_level)
    Worker(settings).run()


if __name__ == "__main__":
    main()
