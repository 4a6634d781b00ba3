"""The Python client of prepare-data.

with Client("https://haproxy.cadc.dao.nrc.ca/prepare-data", token=token, ca="ca.pem") as client:
    task = client.submit([Item.of("testing:prepare_data_test.txt")], destination="./testing")
    task = client.wait(task.id, timeout=600)
    for file in client.files(task.id, state="FAILED"):
        print(file.did, file.reason)
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any

from prepare_data_client import events
from prepare_data_client.errors import InvalidTask, Unreachable, WaitTimeout
from prepare_data_client.models import Estimate, File, Item, Task
from prepare_data_client.transport import TokenSource, Transport

PAGE = 1000
# The service sends a comment at least every 15 s; three missed ones mean that the connection is dead.
SILENCE = 45.0


class Client(AbstractContextManager["Client"]):
    """Talks to one prepare-data service on behalf of one user.

    *token* is an access token, or a function that returns one and is asked before every request. *ca* is a PEM file;
    without it REQUESTS_CA_BUNDLE or the public CAs are used. *timeout* (seconds) is for one answer. What may be sent
    again is, up to *attempts* times, when the service is out of reach or asks for patience. *use_proxy* says whether
    the environment's proxy is used; by default it is, unless the service is on this machine.
    """

    def __init__(
        self,
        url: str,
        *,
        token: TokenSource = None,
        ca: str | Path | None = None,
        timeout: float = 60.0,
        attempts: int = 5,
        use_proxy: bool | None = None,
    ) -> None:
        """Keep the settings; nothing is sent yet."""
        self._transport = Transport(url, token, ca, timeout, attempts, use_proxy)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def submit(
        self,
        items: Iterable[Item],
        *,
        destination: str = ".",
        approach: str | None = None,
        rse: str | None = None,
        callback: str | None = None,
        lifetime: int | None = None,
        idempotency_key: str | None = None,
    ) -> Task:
        """Ask for files to be staged into *destination*, a directory relative to the user's area.

        The same request, whatever the order of its files, is one task while that is unfinished. With
        *idempotency_key* it is one for ever; without, a key of its own protects a request that had to be sent twice.
        *rse* is the storage element that has the files, or several, separated by commas, the preferred first; without,
        the site chooses. *lifetime* is how many seconds the staged copies are kept; for ever if omitted.
        """
        document = self._request(items, destination, approach, rse=rse, callback=callback, lifetime=lifetime)
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        loaded, status = self._transport.call("POST", "/v1/tasks", document=document, headers=headers)
        return Task.load(loaded, existing=status == HTTPStatus.OK)

    def estimate(
        self,
        items: Iterable[Item],
        *,
        destination: str = ".",
        approach: str | None = None,
        rse: str | None = None,
    ) -> Estimate:
        """Say what such a request would cost, without making it."""
        document = self._request(items, destination, approach, rse=rse)
        return Estimate.load(self._transport.call("POST", "/v1/estimate", document=document)[0])

    @staticmethod
    def _request(
        items: Iterable[Item], destination: str, approach: str | None, **rest: Any
    ) -> dict[str, Any]:
        optional = {"approach": approach, **rest}
        return {
            "files": [item.document() for item in items],
            "destination": destination,
            **{name: value for name, value in optional.items() if value is not None},
        }

    def task(self, task_id: str) -> Task:
        """Return a task; NotFound if there is none of that id or it is somebody else's."""
        return self._task("GET", task_id)

    def cancel(self, task_id: str) -> Task:
        """Ask a task to stop; Refused if its state is final."""
        return self._task("POST", task_id, "/cancel")

    def retry(self, task_id: str) -> Task:
        """Stage the failed and cancelled files of a final task once more."""
        # Sent twice, the second one would be refused, since the task is not final any more.
        return self._task("POST", task_id, "/retry", again=False)

    def release(self, task_id: str) -> Task:
        """Remove the staged copies of a final task with a lifetime."""
        return self._task("POST", task_id, "/release")

    def renew(self, task_id: str, lifetime: int) -> Task:
        """Keep the staged copies of a final task with a lifetime for *lifetime* seconds from now."""
        return self._task("POST", task_id, "/renew", document={"lifetime": lifetime})

    def _task(self, method: str, task_id: str, action: str = "", **options: Any) -> Task:
        return Task.load(self._transport.call(method, f"{_path(task_id)}{action}", **options)[0])

    def tasks(self, *, states: Iterable[str] = (), limit: int | None = None) -> Iterator[Task]:
        """Yield the user's tasks, the newest first, at most *limit*."""
        params = {"state": list(states)}
        for document in self._pages("/v1/tasks", "tasks", "before", params, limit, page=100):
            yield Task.load(document)

    def files(self, task_id: str, *, state: str | None = None, limit: int | None = None) -> Iterator[File]:
        """Yield the files of a task in the order of the request."""
        params = {"state": state} if state else {}
        for document in self._pages(f"{_path(task_id)}/files", "files", "after", params, limit, page=PAGE):
            yield File.load(document)

    def _pages(
        self, path: str, key: str, cursor: str, params: dict[str, Any], limit: int | None, page: int
    ) -> Iterator[dict[str, Any]]:
        left = limit
        while left is None or left > 0:
            size = page if left is None else min(page, left)
            answer = self._transport.call("GET", path, params={**params, "limit": size})[0]
            yield from answer[key]
            if left is not None:
                left -= len(answer[key])
            if answer.get("next") is None:
                return
            params = {**params, cursor: answer["next"]}

    def follow(
        self, task_id: str, *, timeout: float | None = None, patience: float = 300.0, interval: float = 1.0
    ) -> Iterator[Task]:
        """Yield a task whenever it has changed, until its state is final or *timeout* seconds are over.

        Listens to the service's events; while these do not come it asks every *interval* seconds or more. A service
        that does not answer at all for *patience* seconds is Unreachable.
        """
        began = heard = time.monotonic()
        deadline = began + timeout if timeout is not None else float("inf")
        seen: Task | None = None
        pause = interval
        while True:
            try:
                for task in self._look(task_id, deadline):
                    heard, pause = time.monotonic(), interval
                    if task != seen:
                        yield task
                        seen = task
                    if task.final:
                        return
            except Unreachable:
                if time.monotonic() - heard > patience:
                    raise
            left = deadline - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(pause, left))
            pause = min(10.0, pause * 1.5)

    def _look(self, task_id: str, deadline: float) -> Iterator[Task]:
        """Yield the task as it is, then as the service's events tell until they stop."""
        task = self.task(task_id)
        yield task
        if task.final:
            return
        silence = max(0.5, min(SILENCE, deadline - time.monotonic()))
        pieces = self._transport.stream(f"{_path(task_id)}/events", {"Accept": "text/event-stream"}, silence)
        for event in events.parse(_until(pieces, deadline, silence)):
            if event.kind not in {"progress", "final"}:
                continue
            try:
                yield Task.load(json.loads(event.data))
            except (ValueError, KeyError, TypeError) as exc:
                raise Unreachable(f"the service sent an event that is no task: {event.data[:200]}") from exc

    def wait(
        self,
        task_id: str,
        *,
        timeout: float | None = None,
        on_progress: Callable[[Task], None] | None = None,
    ) -> Task:
        """Return the task in its final state; WaitTimeout if it has none after *timeout* seconds.

        *on_progress* is called with every change. A task that failed is returned, not raised.
        """
        task: Task | None = None
        for task in self.follow(task_id, timeout=timeout):
            if on_progress is not None:
                on_progress(task)
        if task is None or not task.final:
            state = task.state if task else "of unknown state"
            raise WaitTimeout(f"task {task_id} is {state} after {timeout:g} s; it goes on")
        return task


def _path(task_id: str) -> str:
    try:
        return f"/v1/tasks/{uuid.UUID(task_id)}"
    except ValueError as exc:
        raise InvalidTask(f"{task_id!r} is no task id, which looks like {uuid.UUID(int=0)}") from exc


def _until(pieces: Iterator[bytes], deadline: float, silence: float) -> Iterator[bytes]:
    """Yield pieces as long as a silence after them could not reach well beyond *deadline*."""
    for piece in pieces:
        yield piece
        if time.monotonic() + silence > deadline + 2.0:
            return
