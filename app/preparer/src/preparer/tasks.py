"""The Celery application: one task, whose message carries nothing but an identifier.

The ledger is the truth. A message wakes a worker up; one that is lost only delays its task until the next look at the
ledger, and one that comes twice finds the task taken. So a message is acknowledged as soon as the worker has been told,
and no delivery stays open for as long as a transfer lasts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

from celery import Celery
from kombu import Exchange, Queue
from voservice.config import load

from preparer.config import PreparerSettings

QUEUE = "prepare-data"
DEAD = "prepare-data.dead"
TASK = "preparer.stage"
# A broker that takes longer (out of memory, cut off) counts as away; the message stays in the outbox.
CONFIRM_TIMEOUT = 10

on_wake: list[Callable[[str], None]] = []


def broker_url(settings: PreparerSettings) -> str:
    """Broker's URL with the password that stands in no environment."""
    parts = urlsplit(settings.celery_broker_url)
    password = settings.celery_broker_password.get_secret_value()
    if not password:
        return settings.celery_broker_url
    host = f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
    return (
        f"{parts.scheme}://{quote(parts.username or 'guest')}:{quote(password, safe='')}@{host}{parts.path}"
    )


def create(settings: PreparerSettings) -> Celery:
    """Make the application."""
    url = broker_url(settings)
    # Celery prefers this variable, in which the password does not stand, to what it is told.
    os.environ.pop("CELERY_BROKER_URL", None)
    application = Celery("preparer", broker=url, set_as_current=False)
    dead = Exchange(DEAD, type="fanout", durable=True)
    application.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_default_queue=QUEUE,
        task_queues=[
            Queue(
                QUEUE,
                Exchange(QUEUE, type="direct", durable=True),
                routing_key=QUEUE,
                queue_arguments={
                    "x-queue-type": "quorum",
                    "x-delivery-limit": 20,
                    "x-dead-letter-exchange": DEAD,
                    "x-dead-letter-strategy": "at-least-once",
                    "x-overflow": "reject-publish",
                },
            )
        ],
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_cancel_long_running_tasks_on_connection_loss=True,
        worker_prefetch_multiplier=1,
        worker_detect_quorum_queues=True,
        broker_transport_options={"confirm_publish": True},
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=5,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        task_publish_retry=False,
        timezone="UTC",
    )
    application.conf.preparer_dead = Queue(DEAD, dead, queue_arguments={"x-queue-type": "quorum"})

    @application.task(name=TASK)
    def stage(task: str) -> None:
        """Tell this worker that a task waits."""
        for wake in on_wake:
            wake(task)

    return application


def declare(application: Celery) -> None:
    """Declare the queues, the one for dead letters included."""
    with application.connection_for_write() as connection:
        application.conf.preparer_dead(connection.default_channel).declare()
        for queue in application.conf.task_queues:
            queue(connection.default_channel).declare()


def publish(application: Celery, task: str, connection: Any = None) -> None:
    """Publish a task's message and wait for the broker to confirm it."""
    application.send_task(
        TASK, args=[task], queue=QUEUE, connection=connection, confirm_timeout=CONFIRM_TIMEOUT
    )


def __getattr__(name: str) -> Celery:
    """Make ``app`` when Celery's own command line asks for it (``celery -A preparer.tasks``)."""
    if name in {"app", "celery"}:
        return create(load(PreparerSettings))
    raise AttributeError(name)
