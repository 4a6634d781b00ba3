"""Command line: ``vospace serve``."""

from __future__ import annotations

import argparse

from voservice import database
from voservice.config import load
from voservice.server import serve

from vospace.config import Settings
from vospace.main import MIGRATIONS


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="vospace", description=__doc__)
    parser.add_argument("command", choices=["serve"])
    parser.parse_args()
    settings = load(Settings)
    database.migrate(settings, MIGRATIONS)
    serve("vospace.main:create_app", "vospace", settings)


if __name__ == "__main__":
    main()
