"""Command line: ``iam serve``."""

from __future__ import annotations

import argparse

from voservice.config import load
from voservice.server import serve

from iam.config import IamSettings


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="iam", description=__doc__)
    parser.add_argument("command", choices=["serve"])
    parser.parse_args()
    settings = load(IamSettings)
    if settings.workers != 1:
        raise SystemExit("workers: must be 1, since one process knows who is about to sign in")
    serve("iam.app:create_app", "iam", settings)


if __name__ == "__main__":
    main()
