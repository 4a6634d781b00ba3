"""Command line: `prepare-data-core serve`."""

from __future__ import annotations

import argparse

from voservice import database
from voservice.config import load
from voservice.logging import configure
from voservice.server import serve

from preparer.config import PreparerSettings
from preparer.ledger import MIGRATIONS


def main() -> None:
    """Run the command: bring the ledger's schema up to date, then serve."""
    parser = argparse.ArgumentParser(prog="prepare-data-core", description=__doc__)
    parser.add_argument("command", choices=["serve"])
    parser.parse_args()
    settings = load(PreparerSettings)
    configure("prepare-data-core", settings.log_level)
    database.migrate(settings, MIGRATIONS)
    serve(
        "preparer.app:create_app",
        "prepare-data-core",
        settings,
        port=8000,
        root_path=settings.api_root_path,
    )


if __name__ == "__main__":
    main()
