"""Celery's consumer, reduced to what this service needs."""

from __future__ import annotations

from celery.worker import consumer

UNUSED = {
    # Exchanges and queues for messages with a time to begin at, of which there are none. It also takes the broker's URL
    # from the variable CELERY_BROKER_URL, which holds no password.
    "DelayedDelivery",
    # Messages between workers, which the ledger makes superfluous.
    "Gossip",
    "Mingle",
}


class Consumer(consumer.Consumer):
    """A consumer without the steps that are not used."""

    class Blueprint(consumer.Consumer.Blueprint):  # type: ignore[valid-type, misc]  # an attribute to mypy
        """Steps of the consumer."""

        default_steps = [
            step
            for step in consumer.Consumer.Blueprint.default_steps
            if step.rpartition(":")[2] not in UNUSED
        ]
