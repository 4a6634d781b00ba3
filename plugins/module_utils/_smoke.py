# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The smoke test: each service asked once, and a file staged from end to end. Private to the collection."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ansible_collections.skasrc.cavern.plugins.module_utils import _docker, _http, _vospace

SUCCESS = {"status": "SUCCESS", "info": "Data provisioning successful"}
ACTIVE = ("PENDING", "STARTED")
# Wait between two looks at a task, in s: the first, and the longest.
PAUSES = (0.05, 1.0)
# Bytes of the largest file that somebody has there already and the test takes, for it is read whole.
LARGEST = 64 * 2**20
CONTENT = b"the quick brown fox " * 512
# The shortest document of a container. OpenCADC's Cavern requires complete ones.
SHORT_DOCUMENT = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n'
    b'<node xmlns="http://www.ivoa.net/xml/VOSpace/v2.0" xsi:type="vs:ContainerNode"'
    b' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:vs="http://www.ivoa.net/xml/VOSpace/v2.0"/>'
)


class SmokeError(Exception):
    """A service does not do what the test expects of it."""


@dataclass(frozen=True)
class Content:
    """Size in bytes and MD5 of a file."""

    size: int
    md5: str

    @classmethod
    def of(cls, data: bytes) -> Content:
        """Measure *data*."""
        return cls(len(data), hashlib.md5(data, usedforsecurity=False).hexdigest())

    @classmethod
    def at(cls, path: Path) -> Content:
        """Measure a file. Raises SmokeError if there is none, or if it is too large for a test."""
        try:
            size = path.stat().st_size
            if size > LARGEST:
                raise SmokeError(f"path: {path} has {size} bytes; name a file of at most {LARGEST}")
            return cls.of(path.read_bytes())
        except OSError as error:
            raise SmokeError(f"{path}: {error.strerror}") from error


@dataclass
class Smoke:
    """One run of the test. *options* are those of the module smoke, *engine* is a client of Docker Engine."""

    options: Mapping[str, Any]
    engine: Any
    steps: list[dict[str, Any]] = field(default_factory=list)
    """The steps that were begun: ``step``, and ``ms`` for those that ended."""
    _clean: list[Callable[[], None]] = field(default_factory=list)

    def run(self) -> Content:
        """Run all steps, remove what they made, and return the staged file's content.

        Raises SmokeError, `_http.ServiceError` or DockerException; the last of *steps* is the one that failed.
        """
        try:
            content = self._run()
        except BaseException:
            with contextlib.suppress(SmokeError, _http.ServiceError, OSError):
                self._remove(note=False)
            raise
        self._remove(note=True)
        return content

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[None]:
        entry: dict[str, Any] = {"step": name}
        self.steps.append(entry)
        begun = time.perf_counter()
        yield
        entry["ms"] = round((time.perf_counter() - begun) * 1000)

    def _remove(self, *, note: bool) -> None:
        """Remove what the test made, the newest first; a failure leaves none of the rest behind."""
        failed: Exception | None = None
        step = self._step("Remove what the test made") if note else contextlib.nullcontext()
        with step:
            while self._clean:
                try:
                    self._clean.pop()()
                except (SmokeError, _http.ServiceError, OSError) as error:
                    failed = failed or error
            if failed is not None:
                raise failed

    def _run(self) -> Content:
        user, cavern = self.options["user"], self._url("cavern")
        name = self.options["did"].rpartition(":")[2]
        directory = f"/home/{user}/{self.options['destination'].removeprefix('./').strip('/')}"
        file = f"{directory}/{name}"
        with self._step("Query the registry"):
            answer = self._ask("GET", f"{self._url('reg')}/resource-caps", 200)
            if f"{cavern}/capabilities" not in answer.body.decode(errors="replace"):
                raise SmokeError(f"{answer.url} does not name {cavern}/capabilities")
        with self._step("Read the root node"):
            answer = self._ask("GET", f"{cavern}/nodes/", 200)
            if b"ContainerNode" not in answer.body:
                raise SmokeError(f"{answer.url} is no container node: {answer.excerpt()}")
        if self.options["administrator_token"]:
            self._create_container(f"{cavern}/nodes{self.options['container']}")
        with self._step("Query the POSIX mapper"):
            mapper = self._url("posix_mapper")
            self._ask("GET", f"{mapper}/users/{quote(user, safe='')}", 404)
            query = {"Accept": "text/tab-separated-values"}
            asked = f"{mapper}/uid?user={quote(user, safe='')}"
            answer = self._ask("GET", asked, 200, self.options["token"], headers=query)
            if not re.match(rf"{re.escape(user)}\t[0-9]+\t[0-9]+\n", answer.body.decode(errors="replace")):
                raise SmokeError(f"{answer.url} names no uid: {answer.excerpt()}")
        content = self._given()
        for path in (directory, file):
            self._clean.append(partial(self._delete, f"{cavern}/nodes{_vospace.encode(path)}", "token"))
        with self._step("Stage it through HAProxy"):
            self._follow(self._submit, self._status)
        with self._step("Compare the staged bytes"):
            self._compare_on_disk(content, file)
            self._compare_returned(content, file)
        with self._step("Stage it again from inside the network"):
            self._delete(f"{cavern}/nodes{_vospace.encode(file)}", "token", (200, 204))
            self._follow(self._submit_inside, self._status_inside)
            if self.options.get("space_dir"):
                self._compare_on_disk(content, file)
            else:
                self._compare_returned(content, file)
        return content

    def _given(self) -> Content:
        """Return the content of the file on the RSE, which is written if the RSE is on this host."""
        if self.options.get("content"):
            return Content(**self.options["content"])
        with self._step("Write the test file to the RSE"):
            return self._write(Path(self.options["rse_dir"]) / self.options["path"])

    def _compare_on_disk(self, content: Content, file: str) -> None:
        if self.options.get("space_dir"):
            self._compare("on disk", content, Content.at(Path(f"{self.options['space_dir']}{file}")))

    def _compare_returned(self, content: Content, file: str) -> None:
        read = self._ask(
            "GET", f"{self._url('cavern')}/files{_vospace.encode(file)}", 200, self.options["token"]
        )
        self._compare("as Cavern returns them", content, Content.of(read.body))

    # Requests through HAProxy.

    def _url(self, service: str) -> str:
        return f"{self.options['url'].rstrip('/')}{self.options['routes'][service]}"

    def _ask(
        self,
        method: str,
        url: str,
        expected: int | tuple[int, ...],
        token: str | None = None,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> _http.Answer:
        client = _http.Client(
            ca_path=self.options["ca_path"],
            timeout=self.options["request_timeout"],
            token=token,
            use_proxy=self.options["use_proxy"],
        )
        answer = client.request(method, url, body=body, headers=headers)
        if answer.status not in (expected if isinstance(expected, tuple) else (expected,)):
            raise answer.error()
        return answer

    def _delete(self, url: str, token: str, expected: tuple[int, ...] = (200, 204, 404)) -> None:
        self._ask("DELETE", url, expected, self.options[token])

    def _create_container(self, url: str) -> None:
        """Create a container at the top, as the administrator; nobody else may."""
        whole = self.options["vos_uri"]
        document = (
            _vospace.write_node(f"{whole}{self.options['container']}", "ContainerNode")
            if whole
            else SHORT_DOCUMENT
        )
        administrator, sent = self.options["administrator_token"], {"Content-Type": "application/xml"}
        with self._step("Try to create a container without a token"):
            # Whether somebody has made it already is visible to everybody who may read it.
            before = self._ask("GET", f"{url}?detail=min&limit=0", (200, 403, 404), administrator).status
            if before == 404:
                self._clean.append(partial(self._delete, url, "administrator_token"))
            refused = self._ask("PUT", url, 403 if before == 404 else (403, 409), body=document, headers=sent)
            if refused.status == 403 and not whole and b"token" not in refused.body.lower():
                raise SmokeError(f"{url} answered 403 without asking for a token: {refused.reason()}")
        with self._step("Create a container as the administrator"):
            self._ask("PUT", url, 201 if before == 404 else 409, administrator, body=document, headers=sent)

    def _submit(self) -> Any:
        answer = self._ask(
            "POST",
            f"{self._url('core')}/",
            200,
            self.options["token"],
            body=json.dumps(self._items()).encode(),
            headers={"Content-Type": "application/json", "Accept": "application/json"},
        )
        return answer.json()

    def _status(self, task: str) -> Any:
        return self._ask("GET", f"{self._url('core')}/{task}", 200, self.options["token"]).json()

    # Requests from a container, over plain HTTP in the Docker network.

    def _submit_inside(self) -> Any:
        document = json.dumps(self._items())
        return self._inside("/", "--header", "Content-Type: application/json", "--data", document)

    def _status_inside(self, task: str) -> Any:
        return self._inside(f"/{task}")

    def _inside(self, path: str, *arguments: str) -> Any:
        inside = self.options["inside"]
        # The token is in no command line.
        script = 'exec curl --silent --show-error --fail-with-body --header "Authorization: Bearer $SKA_IAM_TOKEN" "$@"'
        command = ["sh", "-c", script, "sh", "--header", "Accept: application/json", *arguments]
        code, output = _docker.execute(
            self.engine,
            inside["container"],
            [*command, f"{inside['url'].rstrip('/')}{path}"],
            {"SKA_IAM_TOKEN": self.options["token"]},
        )
        try:
            if code == 0:
                return json.loads(output)
        except ValueError:
            pass
        raise SmokeError(f"curl in {inside['container']} ended with {code}: {output[: _http.EXCERPT]}")

    # Staging.

    def _items(self) -> list[list[str]]:
        return [[self.options["did"], self.options["path"], self.options["destination"]]]

    def _follow(self, submit: Callable[[], Any], status: Callable[[str], Any]) -> None:
        """Submit the file and wait for its task's end. Raises SmokeError unless it ends in success."""
        submitted = submit()
        task = submitted.get("task_id") if isinstance(submitted, dict) else None
        if not isinstance(task, str):
            raise SmokeError(f"prepare-data named no task_id: {submitted}")
        deadline, (pause, longest) = time.monotonic() + self.options["timeout"], PAUSES
        while _phase(state := status(task)) in ACTIVE:
            if time.monotonic() > deadline:
                raise SmokeError(f"the task {task} is {state['status']} after {self.options['timeout']:g} s")
            time.sleep(pause)
            pause = min(pause * 1.5, longest)
        if state != SUCCESS:
            raise SmokeError(f"the task {task} ended in {_phase(state)}: {state.get('info')}")

    def _write(self, path: Path) -> Content:
        """Write the test file below the RSE's directory, whose owner it gets; one that is there already stays."""
        if path.exists():
            return Content.at(path)
        owner = Path(self.options["rse_dir"]).stat()
        data = f"{time.time_ns()} ".encode() + CONTENT
        missing = [parent for parent in path.parents if not parent.exists()]
        for parent in reversed(missing):
            parent.mkdir()
            # Whoever owns the directory above may have put another file in its place meanwhile.
            descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                os.fchmod(descriptor, 0o755)
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            finally:
                os.close(descriptor)
            self._clean.append(parent.rmdir)
        descriptor, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                os.fchmod(descriptor, 0o644)
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            os.rename(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        self._clean.append(path.unlink)
        return Content.of(data)

    @staticmethod
    def _compare(where: str, wanted: Content, found: Content) -> None:
        if found != wanted:
            raise SmokeError(
                f"the staged bytes {where} ({found.size}, MD5 {found.md5}) differ from the RSE's"
                f" ({wanted.size}, MD5 {wanted.md5})"
            )


def _phase(state: Any) -> Any:
    """Return the status in a status document. Raises SmokeError if it is none."""
    if not isinstance(state, dict) or "status" not in state:
        raise SmokeError(f"prepare-data returned no status: {str(state)[: _http.EXCERPT]}")
    return state["status"]
