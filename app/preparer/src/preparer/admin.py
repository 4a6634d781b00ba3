"""Command line for operators: `prepare-data-admin dead-letters list|replay`."""

from __future__ import annotations

import argparse
import json

from voservice.config import load

from preparer.broker import create
from preparer.broker.dead_letters import dead_letters
from preparer.config import PreparerSettings


def main() -> None:
    """Run the command: one line of JSON for each dead letter."""
    parser = argparse.ArgumentParser(prog="prepare-data-admin", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    dead = commands.add_parser("dead-letters", help="messages that no worker could take")
    dead.add_argument("action", choices=["list", "replay"])
    dead.add_argument("--limit", type=int, default=1000, help="most messages to look at")
    arguments = parser.parse_args()
    application = create(load(PreparerSettings))
    for letter in dead_letters(application, arguments.limit, replay=arguments.action == "replay"):
        print(json.dumps(letter, default=str))


if __name__ == "__main__":
    main()
