"""The dead-letter queue: messages that no worker accepted."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

from celery import Celery

from preparer.broker.app import DEAD_LETTER_QUEUE, connect, publish


def task_of(body: bytes | str | None) -> str | None:
    """Return the task that a message names; None for a message that is not of this service."""
    try:
        return str(uuid.UUID(json.loads(body or "")[0][0]))
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def dead_letters(application: Celery, limit: int, *, replay: bool) -> Iterator[dict[str, Any]]:
    """Yield the task and the history of at most *limit* messages; with *replay*, publish each again.

    A message that names no task stays, since there is nothing to publish.
    """
    count = 0
    with connect(application) as connection:
        queue = DEAD_LETTER_QUEUE(connection.default_channel)
        held = []
        while count < limit and (message := queue.get()) is not None:
            count += 1
            task = task_of(message.body)
            yield {"task": task, "died": message.headers.get("x-death")}
            if replay and task is not None:
                publish(application, task, connection)
                message.ack()
            else:
                held.append(message)
        for message in held:
            message.requeue()
