"""Command line for operators: ``prepare-data-admin dead-letters list|replay``."""

from __future__ import annotations

import argparse
import json

from voservice.config import load

from preparer import tasks
from preparer.config import PreparerSettings


def dead_letters(replay: bool, limit: int) -> int:
    """Show the messages that no worker could take, or publish them again; returns how many there were."""
    application = tasks.create(load(PreparerSettings))
    tasks.declare(application)
    count = 0
    with application.connection_for_write() as connection:
        queue = application.conf.preparer_dead(connection.default_channel)
        held = []
        while count < limit and (message := queue.get()) is not None:
            count += 1
            arguments = json.loads(message.body)[0]
            print(
                json.dumps(
                    {"task": arguments[0] if arguments else None, "died": message.headers.get("x-death")},
                    default=str,
                )
            )
            if replay:
                tasks.publish(application, arguments[0])
                message.ack()
            else:
                held.append(message)
        for message in held:
            message.requeue()
    return count


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="prepare-data-admin", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    dead = commands.add_parser("dead-letters", help="messages that no worker could take")
    dead.add_argument("action", choices=["list", "replay"])
    dead.add_argument("--limit", type=int, default=1000, help="most messages to look at")
    arguments = parser.parse_args()
    count = dead_letters(arguments.action == "replay", arguments.limit)
    print(f"{count} dead letters {'replayed' if arguments.action == 'replay' else 'found'}")


if __name__ == "__main__":
    main()
