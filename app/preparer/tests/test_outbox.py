"""The outbox: what is written is published, however often the broker is away; and what dead letters may hold."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from amqp.exceptions import ConnectionForced
from kombu.exceptions import OperationalError
from preparer import broker
from preparer.broker import Outbox
from preparer.broker.dead_letters import dead_letters, task_of
from preparer.config import PreparerSettings


class Ledger:
    """As much of the ledger as the outbox asks for."""

    def __init__(self, count: int) -> None:
        """With *count* unpublished tasks."""
        self.waiting = [uuid.uuid4() for _ in range(count)]
        self.empty = asyncio.Event()

    async def unpublished(self) -> Sequence[tuple[uuid.UUID, str | None]]:
        return [(task, None) for task in self.waiting[:2]]

    async def published(self, numbers: Sequence[uuid.UUID]) -> None:
        for task in list(numbers):
            self.waiting.remove(task)
        if not self.waiting:
            self.empty.set()


@pytest.mark.parametrize("failure", [OperationalError("away"), OSError("cut"), ConnectionForced("shutdown")])
async def test_messages_wait_for_the_broker(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger: Any = Ledger(5)
    outbox = Outbox(broker.create(PreparerSettings()), ledger, interval=0.01)
    sent: list[uuid.UUID] = []
    failures = [failure, failure]
    states: list[bool] = []

    def publish(waiting: Sequence[tuple[uuid.UUID, str | None]]) -> None:
        states.append(outbox.healthy)
        if failures:
            raise failures.pop()
        sent.extend(task for task, _ in waiting)

    monkeypatch.setattr(outbox, "_publish", publish)
    expected = list(ledger.waiting)
    running = asyncio.create_task(outbox.run())
    async with asyncio.timeout(10):
        await ledger.empty.wait()
    running.cancel()
    outbox.close()
    assert sent == expected
    assert states[:3] == [False, False, False]
    assert states[-1]


def test_a_broker_that_is_away_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(seconds: float) -> None:
        pytest.fail(f"waits for {seconds} s")

    monkeypatch.setattr("kombu.utils.functional.sleep", wait)
    application = broker.create(PreparerSettings(celery_broker_url="amqp://user@127.0.0.1:1//"))
    with pytest.raises(OperationalError):
        list(dead_letters(application, 1, replay=False))
    with pytest.raises(OperationalError):
        Outbox(application, ledger=None)._publish([])


def test_messages_are_durable_confirmed_and_hold_an_identifier_alone() -> None:
    application = broker.create(PreparerSettings(celery_broker_url="amqp://user@host:5672//"))
    (queue,) = application.conf.task_queues
    assert queue.durable
    assert queue.queue_arguments["x-queue-type"] == "quorum"
    assert queue.queue_arguments["x-dead-letter-exchange"] == broker.DEAD
    assert application.conf.broker_transport_options["confirm_publish"]
    assert application.conf.task_acks_late
    assert application.conf.task_reject_on_worker_lost


def test_the_brokers_password_is_quoted_into_its_url() -> None:
    settings = PreparerSettings(
        celery_broker_url="amqp://user@host:5672//", celery_broker_password="p@ss/:word"
    )
    assert broker.broker_url(settings) == "amqp://user:p%40ss%2F%3Aword@host:5672//"


def test_a_dead_letter_names_its_task_or_none() -> None:
    task = str(uuid.uuid4())
    assert task_of(json.dumps([[task], {}, {}])) == task
    for body in ["", "{}", "[]", "[[]]", "null", '[["x"]]', b"\xff"]:
        assert task_of(body) is None
