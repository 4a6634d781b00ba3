"""Command line: ``posix-mapper serve``."""

from __future__ import annotations

import argparse
from pathlib import Path

from voservice import database
from voservice.config import load
from voservice.logging import configure
from voservice.server import serve

from posix_mapper.config import PosixMapperSettings


def main(port: int = 8080) -> None:
    """Run the command: bring the schema up to date, then serve on *port*."""
    parser = argparse.ArgumentParser(prog="posix-mapper", description=__doc__)
    parser.add_argument("command", choices=["serve"])
    parser.parse_args()
    settings = load(PosixMapperSettings)
    configure("posix-mapper", settings.log_level)
    database.migrate(settings, Path(__file__).parent / "migrations")
    serve("posix_mapper.app:create_app", "posix-mapper", settings, port)


if __name__ == "__main__":
    main()
