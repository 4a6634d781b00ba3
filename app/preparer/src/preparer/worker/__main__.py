"""Command line: `prepare-data-worker`, and `prepare-data-worker --health` for the container's health check."""

from __future__ import annotations

import sys

from preparer.worker import heartbeat


def main() -> None:
    """Run the command."""
    if sys.argv[1:] == ["--health"]:
        # Nothing else is imported: this runs every few seconds.
        sys.exit(0 if heartbeat.healthy() else 1)
    if sys.argv[1:]:
        sys.exit("usage: prepare-data-worker [--health]")
    from preparer.worker.celery import run

    sys.exit(run())


if __name__ == "__main__":
    main()
