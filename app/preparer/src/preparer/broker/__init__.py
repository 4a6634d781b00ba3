"""Delivery of staging tasks to workers, by Celery and RabbitMQ.

Celery routes, delivers, acknowledges and redelivers messages, and what no worker accepts ends in the dead-letter queue.
A message holds the identifier of a task and nothing else: it tells a worker to look into the ledger.

Staging is not the body of the Celery task, for reasons that Celery and RabbitMQ give:

- RabbitMQ cancels a consumer whose delivery is not acknowledged within `consumer_timeout`, by default 30 minutes. A
  task may take days, so its delivery is acknowledged as soon as the worker knows of it, and a lease in the ledger takes
  over: a task whose worker is lost goes on in another one, where it stood.
- A queue is first in, first out. Which task is next depends on what each user has under way, which the ledger knows.
- A worker of Celery has no event loop. One worker keeps hundreds of transfers going, which is one loop's work and not
  that of as many threads or processes.

So a lost message delays a task until the next look at the ledger, and one that comes twice does no harm.
"""

from __future__ import annotations

from preparer.broker.app import DEAD, QUEUE, TASK, broker_url, create
from preparer.broker.outbox import Outbox

__all__ = ["DEAD", "QUEUE", "TASK", "Outbox", "broker_url", "create"]
