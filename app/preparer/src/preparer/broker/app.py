"""The Celery application: its broker, its queues, and how messages are published."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

from celery import Celery
from kombu import Connection, Exchange, Queue
from voservice import tracing

from preparer.config import PreparerSettings

QUEUE = "prepare-data"
DEAD = "prepare-data.dead"
TASK = "preparer.stage"
TRACE = "traceparent"
"""Header of a message (W3C Trace Context: AMQP)."""
CONFIRM_TIMEOUT = 10
"""Seconds after which a broker that has not confirmed a message counts as unavailable."""

WORK_QUEUE = Queue(
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
DEAD_LETTER_QUEUE = Queue(
    DEAD, Exchange(DEAD, type="fanout", durable=True), queue_arguments={"x-queue-type": "quorum"}
)


def broker_url(settings: PreparerSettings) -> str:
    """Return the broker's URL with its password, which is a secret of its own."""
    parts = urlsplit(settings.celery_broker_url)
    password = settings.celery_broker_password.get_secret_value()
    if not password:
        return settings.celery_broker_url
    host = f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
    return (
        f"{parts.scheme}://{quote(parts.username or 'guest')}:{quote(password, safe='')}@{host}{parts.path}"
    )


def create(settings: PreparerSettings) -> Celery:
    """Return the application that these settings describe."""
    url = broker_url(settings)
    application = Celery("preparer", set_as_current=False)
    application.conf.update(
        # To `broker_url` Celery prefers the variable CELERY_BROKER_URL, which holds no password.
        broker_read_url=url,
        broker_write_url=url,
        broker_transport_options={"confirm_publish": True},
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=5,
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_default_queue=QUEUE,
        task_queues=[WORK_QUEUE],
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_publish_retry=False,
        # Tasks return at once, so that one after the other is as good as several.
        worker_pool="solo",
        worker_consumer="preparer.broker.consumer:Consumer",
        worker_concurrency=1,
        worker_prefetch_multiplier=4,
        worker_cancel_long_running_tasks_on_connection_loss=True,
        worker_detect_quorum_queues=True,
        worker_send_task_events=False,
        timezone="UTC",
    )
    return application


def connect(application: Celery) -> Connection:
    """Return a connection to the broker, which has the work queue and the dead-letter queue.

    Raises `OperationalError` at once if the broker does not answer: whoever needs it comes again.
    """
    connection = application.connection_for_write()
    try:
        connection.ensure_connection(max_retries=1, interval_start=0)
        for queue in (DEAD_LETTER_QUEUE, WORK_QUEUE):
            queue(connection.default_channel).declare()
    except BaseException:
        connection.release()
        raise
    return connection


def publish(application: Celery, task: str, connection: Connection, trace: str | None = None) -> None:
    """Publish the message of a task, and wait for the broker to confirm it; its headers continue *trace*."""
    with tracing.sent(f"send {QUEUE}", trace, {"messaging.system": "rabbitmq"}):
        context = tracing.current()
        application.send_task(
            TASK,
            args=[task],
            queue=QUEUE,
            connection=connection,
            confirm_timeout=CONFIRM_TIMEOUT,
            headers=None if context is None else {TRACE: context},
        )
