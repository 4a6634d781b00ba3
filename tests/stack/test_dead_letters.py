"""Messages that no worker takes end where an operator finds them, and can be published again."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from deployment import Deployment
from preparer.broker import QUEUE
from tasks import strange_message

CORE = "ska-src-local-data-preparer-core"


def dead_letters(stack: Deployment, action: str) -> list[dict[str, Any]]:
    """What the operator's command prints."""
    status, output = stack.container(CORE).exec_run(["prepare-data-admin", "dead-letters", action])
    assert status == 0, output.decode()
    return [json.loads(line) for line in output.decode().splitlines()]


def wait_for(stack: Deployment, task: str) -> dict[str, Any]:
    """The dead letter of a task once it lies there."""
    deadline = time.monotonic() + 30
    while True:
        for letter in dead_letters(stack, "list"):
            if letter["task"] == task:
                return letter
        assert time.monotonic() < deadline, f"no dead letter names {task}"
        time.sleep(0.2)


@pytest.fixture
def task(stack: Deployment) -> str:
    """Identifier in a message of a kind that workers do not know."""
    return strange_message(stack)


def test_a_dead_letter_is_shown_and_published_again(stack: Deployment, task: str) -> None:
    letter = wait_for(stack, task)
    assert letter["died"][0]["queue"] == QUEUE
    assert letter["died"][0]["reason"] == "rejected"
    assert task in [entry["task"] for entry in dead_letters(stack, "replay")]
    # What is published again is a message that workers know.
    assert dead_letters(stack, "list") == []
