"""Users at work in a cluster while its pods change: each request that fails is kept."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
from tasks import FINAL
from vospace_client.documents import node_document


class Entry:
    """The public name of a deployment, at a port of a node."""

    def __init__(self, name: str, address: str, port: int, ca: Path) -> None:
        """Trust *ca* alone."""
        self.name = name
        self.pool = urllib3.HTTPSConnectionPool(
            address,
            port,
            maxsize=16,
            server_hostname=name,
            assert_hostname=name,
            ca_certs=str(ca),
            timeout=60,
            retries=False,
        )

    def __call__(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> urllib3.BaseHTTPResponse:
        """Send a request once, without repeating it."""
        sent = {"Host": self.name, **(headers or {})}
        return self.pool.request(method, path, body=body, headers=sent, redirect=False)

    def token(self, user: str, secrets: dict[str, str]) -> str:
        """Return a token of the deployment's own issuer."""
        form = {
            "grant_type": "password",
            "username": user,
            "password": secrets["iam_user_password"],
        }
        client = urllib3.make_headers(basic_auth=f"cavern-cli:{secrets['iam_client_cavern_cli']}")
        client["Content-Type"] = "application/x-www-form-urlencoded"
        answer = self("POST", "/iam/token", client, urlencode(form).encode())
        assert answer.status == 200, answer.data
        return str(answer.json()["access_token"])


class Load:
    """What users did, and what of it failed."""

    def __init__(self, entry: Entry, token: str, user: str) -> None:
        """Work as one user, in an area of that user's own."""
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []
        self.tasks: list[str] = []
        self._entry = entry
        self._user = user
        self._token = {"Authorization": f"Bearer {token}"}
        self._stop = threading.Event()

    def _ask(
        self, what: str, wanted: set[int], method: str, path: str, body: bytes | None = None, kind: str = ""
    ) -> bytes:
        headers = self._token | ({"Content-Type": kind} if kind else {})
        try:
            answer = self._entry(method, path, headers, body)
        except urllib3.exceptions.HTTPError as error:
            self.failures.append(f"{what}: {error!r}")
            return b""
        if answer.status not in wanted:
            self.failures.append(f"{what}: {answer.status} {answer.data[:300]!r}")
            return b""
        self.done[what] += 1
        return answer.data

    def prepare(self) -> None:
        """Make the user's area."""
        document = node_document("ContainerNode")
        self._ask("area", {201, 409}, "PUT", f"/src/cavern/nodes/home/{self._user}", document, "text/xml")

    def put(self, name: str, content: bytes) -> None:
        """Write a file."""
        self._ask("put", {200, 201}, "PUT", f"/src/cavern/files/home/{self._user}/{name}", content)

    def get(self, name: str) -> bytes:
        """Read a file."""
        return self._ask("get", {200}, "GET", f"/src/cavern/files/home/{self._user}/{name}")

    def _files(self, number: int) -> None:
        path = f"/src/cavern/files/home/{self._user}/{number}.dat"
        while not self._stop.wait(0.05):
            content = os.urandom(20_000)
            self._ask("put", {200, 201}, "PUT", path, content)
            read = self._ask("get", {200}, "GET", path)
            if read and read != content:
                self.failures.append("get: other content than was put")
            self._ask("node", {200}, "GET", path.replace("/files/", "/nodes/"))
            self._ask("delete", {200, 204}, "DELETE", path.replace("/files/", "/nodes/"))

    def submit(self, files: list[dict[str, str]], destination: str) -> None:
        """Submit a task."""
        body = json.dumps({"files": files, "destination": destination}).encode()
        told = self._ask("submit", {201}, "POST", "/prepare-data/v1/tasks", body, "application/json")
        if told:
            self.tasks.append(json.loads(told)["id"])

    def look(self) -> dict[str, Any]:
        """Return the latest task as it is now, nothing where nobody answers."""
        told = self._ask("status", {200}, "GET", f"/prepare-data/v1/tasks/{self.tasks[-1]}")
        found: dict[str, Any] = json.loads(told or b"{}")
        return found

    def _staging(self, did: str) -> None:
        number = 0
        while not self._stop.wait(0.3):
            number += 1
            self.submit([{"did": did}], f"staged/{number}")
            if self.tasks:
                self.look()

    def _look(self) -> None:
        while not self._stop.wait(0.1):
            self._ask("registry", {200}, "GET", "/reg/resource-caps")
            self._ask("uid", {200}, "GET", f"/src/posix-mapper/uid?user={self._user}")
            self._ask("keys", {200}, "GET", "/iam/jwks")

    @contextmanager
    def running(self, did: str) -> Iterator[None]:
        """Do all of it until the block ends."""
        workers = [
            *(threading.Thread(target=self._files, args=(number,)) for number in range(2)),
            threading.Thread(target=self._staging, args=(did,)),
            threading.Thread(target=self._look),
        ]
        for worker in workers:
            worker.start()
        try:
            yield
        finally:
            self._stop.set()
            for worker in workers:
                worker.join()

    def ends(self, seconds: float) -> Counter[str]:
        """Wait for the tasks' ends, and return how they ended."""
        ended: dict[str, Any] = {}
        deadline = time.monotonic() + seconds
        while waiting := [task for task in self.tasks if task not in ended]:
            assert time.monotonic() < deadline, f"{len(waiting)} of {len(self.tasks)} tasks have not ended"
            for task in waiting:
                told = json.loads(
                    self._ask("status", {200}, "GET", f"/prepare-data/v1/tasks/{task}") or b"{}"
                )
                if told.get("state") in FINAL:
                    ended[task] = told["state"]
            time.sleep(0.5)
        return Counter(ended.values())
