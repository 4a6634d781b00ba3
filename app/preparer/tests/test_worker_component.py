"""The component of the Celery worker that stages: it starts, is told of tasks, stops, and ends the worker."""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from anyio.abc import TaskStatus
from celery.worker import state
from preparer.broker import TASK, create
from preparer.config import PreparerSettings


class Runner:
    """As much of the runner as the component uses."""

    def __init__(self) -> None:
        """Neither woken nor stopped."""
        self.wake = asyncio.Event()
        self.stopping = asyncio.Event()
        self.fail = asyncio.Event()
        self.stopped_in = ""

    def stop(self) -> None:
        """End `run`."""
        self.stopping.set()

    async def run(self) -> None:
        """Wait for the end, or fail."""
        ends = [asyncio.ensure_future(event.wait()) for event in (self.stopping, self.fail)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        self.stopped_in = threading.current_thread().name
        for end in ends:
            end.cancel()
        if self.fail.is_set():
            raise OSError("the disk is gone")


@pytest.fixture
def component(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The component, started, with a runner of the test's own."""
    module = importlib.import_module("preparer.worker.celery")

    async def serve(_vault: Any, *, task_status: TaskStatus[Runner]) -> None:
        runner = Runner()
        task_status.started(runner)
        await runner.run()

    monkeypatch.setattr(module, "serve", serve)
    monkeypatch.setattr(module, "Vault", lambda _settings: None)
    monkeypatch.setattr(module, "start_http_server", lambda _port: None)
    monkeypatch.setattr(module.database, "migrate", lambda *_arguments: None)
    monkeypatch.setattr(state, "should_stop", None)
    worker = SimpleNamespace(app=create(PreparerSettings(celery_broker_url="memory://")), steps=[])
    staging = module.Staging(worker)
    staging.start(worker)
    yield SimpleNamespace(worker=worker, staging=staging, runner=staging.runner)
    if not staging.serving.done():
        staging.stop(worker)


def test_a_message_wakes_the_runner(component: Any) -> None:
    component.worker.app.tasks[TASK].apply(args=["00000000-0000-0000-0000-000000000000"], throw=True)
    assert component.staging.portal.call(component.runner.wake.wait)


def test_stopping_waits_for_the_runner(component: Any) -> None:
    component.staging.stop(component.worker)
    assert component.runner.stopped_in == "staging"
    assert component.staging.serving.done()
    assert state.should_stop is None


def test_a_runner_that_fails_ends_the_worker(component: Any) -> None:
    component.staging.portal.call(component.runner.fail.set)
    assert isinstance(component.staging.serving.exception(timeout=10), OSError)
    component.staging.stop(component.worker)
    assert state.should_stop == 1
