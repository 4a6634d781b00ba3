"""Command line for operators: ``prepare-data-admin dead-letters list|replay``."""

from __future__ import annotations

import argparse
import json
import uuid

from voservice.config import load

from preparer import tasks
from preparer.config import PreparerSettings


def task_of(body: bytes | str) -> str | None:
    """Task that a message names; None for a message that is not of this service."""
    try:
        return str(uuid.UUID(json.loads(body)[0][0]))
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def dead_letters(replay: bool, limit: int) -> None:
    """Show the messages that no worker could take, or publish them again: one line of JSON each.

    A message that names no task is shown and stays, since there is nothing to publish.
    """
    application = tasks.create(load(PreparerSettings))
    tasks.declare(application)
    count = 0
    with application.connection_for_write() as connection:
        queue = application.conf.preparer_dead(connection.default_channel)
        held = []
        while count < limit and (message := queue.get()) is not None:
            count += 1
            task = task_of(message.body)
            print(json.dumps({"task": task, "died": message.headers.get("x-death")}, default=str))
            if replay and task is not None:
                tasks.publish(application, task)
                message.ack()
            else:
                held.append(message)
        for message in held:
            message.requeue()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="prepare-data-admin", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    dead = commands.add_parser("dead-letters", help="messages that no worker could take")
    dead.add_argument("action", choices=["list", "replay"])
    dead.add_argument("--limit", type=int, default=1000, help="most messages to look at")
    arguments = parser.parse_args()
    dead_letters(arguments.action == "replay", arguments.limit)


if __name__ == "__main__":
    main()
