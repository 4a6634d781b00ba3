"""Tasks of prepare-data, made and followed over HTTP."""

from __future__ import annotations

import time
from typing import Any

import requests

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
