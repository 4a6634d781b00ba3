"""Callbacks as a receiver sees them: signed, repeated until taken, and to no host but those allowed."""

from __future__ import annotations

import hashlib
import hmac
import json
import queue
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from deployment import Deployment
from prepare_data_client.did import DID


class Receiver:
    """An HTTP service on the host's end of the deployment's network that refuses the first callback."""

    def __init__(self, address: str) -> None:
        """Listen on a free port."""
        received: queue.Queue[tuple[dict[str, str], bytes]] = queue.Queue()
        answers = iter([503])

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.put((dict(self.headers), body))
                self.send_response(next(answers, 204))
                self.end_headers()

            def log_message(self, *_arguments: Any) -> None:
                """Stay quiet."""

        self.received = received
        self.server = ThreadingHTTPServer((address, 0), Handler)
        self.url = f"http://{address}:{self.server.server_port}/done"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def next(self) -> tuple[dict[str, str], bytes]:
        """Headers and body of the next callback."""
        return self.received.get(timeout=90)


@pytest.fixture
def receiver(gateway: str) -> Iterator[Receiver]:
    """A receiver to which the deployment may send callbacks."""
    receiver = Receiver(gateway)
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        receiver.server.server_close()


def test_a_callback_is_signed_and_repeated(
    stack: Deployment, http: requests.Session, rse: Callable[[str, bytes], Path], receiver: Receiver
) -> None:
    did = f"testing:{uuid.uuid4().hex}.dat"
    rse(DID.parse(did).path(), b"content")
    tasks = f"{stack.url}/prepare-data/v1/tasks"
    body = {"files": [{"did": did}], "callback": receiver.url}
    answer = http.post(tasks, json=body, timeout=60)
    assert answer.status_code == 201, answer.text
    task = answer.json()["id"]

    (_, refused), (headers, taken) = receiver.next(), receiver.next()
    assert json.loads(refused)["id"] == json.loads(taken)["id"] == task
    assert json.loads(taken)["state"] == "SUCCEEDED"
    signature = re.fullmatch(r"t=(\d+),v1=([0-9a-f]{64})", headers["X-Prepare-Data-Signature"])
    assert signature is not None
    key = stack.secrets["preparer_callback_key"].encode()
    assert signature[2] == hmac.new(key, f"{signature[1]}.".encode() + taken, hashlib.sha256).hexdigest()

    deadline = time.monotonic() + 30
    while (told := http.get(f"{tasks}/{task}", timeout=30).json())["callback_status"] != "204 No Content":
        assert told["callback_status"].startswith("503"), told
        assert time.monotonic() < deadline, told
        time.sleep(0.1)
    assert receiver.received.empty()
