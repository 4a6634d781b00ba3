"""Tasks of prepare-data, made and followed over HTTP."""

from __future__ import annotations

import time
import uuid
from typing import Any

import requests
from deployment import Deployment
from kombu import Connection
from preparer.broker import QUEUE

FINAL = {"SUCCEEDED", "FAILED", "CANCELLED", "LOST"}


def submit(http: requests.Session, url: str, **body: Any) -> str:
    """URL of a new task."""
    answer = http.post(f"{url}/prepare-data/v1/tasks", json=body, timeout=60)
    assert answer.status_code == 201, answer.text
    return f"{url}/prepare-data/v1/tasks/{answer.json()['id']}"


def ended(http: requests.Session, task: str) -> dict[str, Any]:
    """The task at its end, with its files as `items`."""
    deadline = time.monotonic() + 90
    while (found := http.get(task, timeout=30).json())["state"] not in FINAL:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return {**found, "items": http.get(f"{task}/files", timeout=30).json()["files"]}


def strange_message(stack: Deployment) -> str:
    """Send a message that workers do not know, as another release might leave one; return the id of its task."""
    task = str(uuid.uuid4())
    address, password = (
        stack.address("ska-src-local-data-preparer-rabbitmq"),
        stack.secrets["rabbitmq_password"],
    )
    with Connection(f"amqp://preparer:{password}@{address}:5672//") as connection:
        connection.Producer().publish(
            [[task], {}, {}],
            exchange=QUEUE,
            routing_key=QUEUE,
            serializer="json",
            headers={"task": "preparer.another", "id": str(uuid.uuid4()), "lang": "py"},
        )
    return task
