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
    serve("iam.app:create_app", "iam", load(IamSettings))


if __name__ == "__main__":
    main()
