# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check the health of services. Private to the collection.

A check runs once and either returns its findings or raises Unhealthy with the reason. `watch` repeats checks in
parallel until they pass or the deadline is reached.
"""

from __future__ import annotations

import ctypes
import datetime
import http.client
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

from ansible_collections.skasrc.cavern.plugins.module_utils import _docker, _engine, _http, _xml
from ansible_collections.skasrc.cavern.plugins.module_utils._logs import printable

AVAILABILITY = "{http://www.ivoa.net/xml/VOSIAvailability/v1.0}"

# Options that each kind of check cannot do without.
KINDS: dict[str, tuple[str, ...]] = {
    "http": ("url",),
    "vosi": ("url",),
    "tls": ("host", "port"),
    "tcp": ("host", "port"),
    "amqp": ("host", "port"),
    "postgres": ("host", "port"),
    "container": ("container",),
}

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 1.0  # s, between two tries of a check
_CLONE_NEWNET = 0x40000000  # of linux/sched.h


class Unhealthy(Exception):
    """The check failed; the message says why. With *final*, it will not pass later either."""

    def __init__(self, message: str, *, final: bool = False, **found: Any) -> None:
        """Keep further findings for the result."""
        super().__init__(message)
        self.final, self.found = final, found


@dataclass(frozen=True)
class Context:
    """Settings that all checks of a run share."""

    url: str | None = None
    ca_path: str | None = None
    engine_socket: str = _engine.SOCKET
    use_proxy: bool = False


Check = Mapping[str, Any]
Found = dict[str, Any]


def _address(check: Check) -> tuple[str, int]:
    return check["host"], check["port"]


@contextmanager
def _inside(check: Check, context: Context) -> Iterator[None]:
    """Let this thread be in the network of the container that a check is made from, if it names one."""
    name = check.get("container")
    if not name:
        yield
        return
    try:
        pid = _client(context.engine_socket).inspect_container(name)["State"]["Pid"]
    except _docker.NotFound as error:
        raise Unhealthy(f"there is no container {name}") from error
    except (_docker.DockerException, OSError) as error:
        raise Unhealthy(f"Docker Engine: {error}") from error
    if not pid:
        raise Unhealthy(f"the container {name} does not run")
    with ExitStack() as stack:
        try:
            own, other = (
                stack.enter_context(open(f"/proc/{process}/ns/net", "rb")) for process in ("thread-self", pid)
            )
            _enter(other.fileno())
        except OSError as error:
            raise Unhealthy(f"the network of {name} cannot be entered: {error.strerror}") from error
        stack.callback(_enter, own.fileno())
        yield


def _enter(descriptor: int) -> None:
    """Move this thread to another network namespace; Python has setns(2) from 3.12 on."""
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _connect(check: Check, context: Context, timeout: float) -> socket.socket:
    try:
        # A socket stays in the network in which it was made.
        with _inside(check, context):
            connection = socket.create_connection(_address(check), timeout=timeout)
    except OSError as error:
        raise Unhealthy(f"{check['host']}:{check['port']}: {_http.explain(error)}") from error
    return connection


def _converse(check: Check, context: Context, timeout: float, greeting: bytes) -> bytes:
    """Send *greeting* and return the first bytes of the answer."""
    with _connect(check, context, timeout) as connection:
        try:
            connection.sendall(greeting)
            return connection.recv(4096)
        except OSError as error:
            raise Unhealthy(f"{check['host']}:{check['port']}: {_http.explain(error)}") from error


def check_tcp(check: Check, context: Context, timeout: float) -> Found:
    """Check that something accepts connections."""
    with _connect(check, context, timeout):
        return {"message": f"{check['host']}:{check['port']} accepts connections"}


def check_amqp(check: Check, context: Context, timeout: float) -> Found:
    """Check that a broker answers a protocol header with connection.start (AMQP 0-9-1 section 2.2.4)."""
    answer = _converse(check, context, timeout, b"AMQP\x00\x00\x09\x01")
    # A method frame on channel 0 whose first method is class 10, method 10.
    if len(answer) < 11 or answer[:3] != b"\x01\x00\x00" or answer[7:11] != struct.pack(">HH", 10, 10):
        shown = answer[:16].decode("ascii", "backslashreplace") or "nothing"
        raise Unhealthy(f"{check['host']}:{check['port']} does not speak AMQP 0-9-1: it sent {shown}")
    return {"message": "the broker offers AMQP 0-9-1"}


def check_postgres(check: Check, context: Context, timeout: float) -> Found:
    """Check that a server accepts a session (PostgreSQL protocol 3.0), that is, does not start, stop or recover."""
    parameters = b"user\x00health\x00database\x00health\x00application_name\x00health\x00\x00"
    message = struct.pack(">i", 196608) + parameters
    answer = _converse(check, context, timeout, struct.pack(">i", len(message) + 4) + message)
    kind = answer[:1]
    if kind == b"R":
        return {"message": "the server asks for authentication"}
    if kind == b"E":
        fields = {
            part[:1].decode("latin-1"): part[1:].decode(errors="replace")
            for part in answer[5:].split(b"\x00")
            if part
        }
        # Class 57 is operator intervention (starting up, shutting down), 53 insufficient resources.
        if fields.get("C", "")[:2] in {"57", "53"}:
            raise Unhealthy(f"the server says: {fields.get('M', fields['C'])}")
        return {"message": "the server takes up sessions"}
    raise Unhealthy(f"{check['host']}:{check['port']} does not speak PostgreSQL's protocol")


def check_tls(check: Check, context: Context, timeout: float) -> Found:
    """Check that the certificate can be verified and does not expire soon."""
    ca_path = check.get("ca_path") or context.ca_path
    try:
        trust = ssl.create_default_context(cafile=ca_path)
    except OSError as error:
        raise Unhealthy(f"{ca_path}: {error.strerror or error}") from error
    name = check.get("server_name") or check["host"]
    with _connect(check, context, timeout) as connection:
        try:
            with trust.wrap_socket(connection, server_hostname=name) as secured:
                certificate = secured.getpeercert() or {}
                version = secured.version()
        except OSError as error:
            raise Unhealthy(f"{name}: {_http.explain(error)}") from error
    ends = datetime.datetime.fromtimestamp(
        ssl.cert_time_to_seconds(str(certificate["notAfter"])), datetime.UTC
    )
    days = (ends - datetime.datetime.now(datetime.UTC)).days
    found = {"days_left": days, "not_after": ends.strftime("%Y-%m-%dT%H:%M:%SZ")}
    if days < check["min_days"]:
        raise Unhealthy(
            f"the certificate of {name} ends in {days} days ({found['not_after']}), less than {check['min_days']}",
            final=True,
            **found,
        )
    return {"message": f"{version}, the certificate ends in {days} days", **found}


def _ask(check: Check, context: Context, timeout: float) -> _http.Answer:
    url = (
        urljoin(f"{context.url}/", check["url"].lstrip("/")) if check["url"].startswith("/") else check["url"]
    )
    client = _http.Client(
        ca_path=check.get("ca_path") or context.ca_path, timeout=timeout, use_proxy=context.use_proxy
    )
    try:
        answer = client.request("GET", url)
    except _http.ServiceError as error:
        raise Unhealthy(str(error)) from error
    wanted = check.get("status") or http.client.OK
    if answer.status != wanted:
        raise Unhealthy(
            f"{url} answered {answer.status} instead of {wanted}: {answer.reason()}", status=answer.status
        )
    return answer


def check_http(check: Check, context: Context, timeout: float) -> Found:
    """Check that a URL answers with the expected status and text."""
    answer = _ask(check, context, timeout)
    text = check.get("contains")
    if text and text not in answer.body.decode(errors="replace"):
        raise Unhealthy(
            f"{answer.url}: the answer does not contain {text!r}: {answer.excerpt()}", status=answer.status
        )
    return {"message": f"answered {answer.status}", "status": answer.status}


def check_vosi(check: Check, context: Context, timeout: float) -> Found:
    """Check that a service reports itself available (VOSI 1.1 section 5)."""
    answer = _ask(check, context, timeout)
    try:
        document = _xml.parse(answer.body)
    except _xml.XMLError as error:
        raise Unhealthy(f"{answer.url}: {error}") from error
    available = document.find(f"{AVAILABILITY}available")
    if document.tag != f"{AVAILABILITY}availability" or available is None:
        raise Unhealthy(f"{answer.url}: no VOSI availability document: {answer.excerpt()}")
    notes = [(note.text or "").strip() for note in document.iterfind(f"{AVAILABILITY}note")]
    note = "; ".join(filter(None, notes))
    if (available.text or "").strip() not in {"true", "1"}:
        raise Unhealthy(f"the service is not available: {note or 'it gives no reason'}", note=note)
    return {"message": note or "available", "note": note, "status": answer.status}


_local = threading.local()


def _client(path: str) -> Any:
    if _docker.LIBRARY_ERROR:
        raise Unhealthy("the Python package docker is needed to look at containers", final=True)
    try:
        # The SDK's sessions are not for use by several threads.
        if not hasattr(_local, "engine"):
            _local.engine = _docker.connect(path, timeout=30)
        return _local.engine
    except _docker.DockerException as error:
        raise Unhealthy(f"Docker Engine does not answer: {error}") from error


def check_container(check: Check, context: Context, timeout: float) -> Found:
    """Check that a container runs and passes its health test.

    Until Docker has run the test, which takes one interval, it is run here.
    """
    name, engine = check["container"], _client(context.engine_socket)
    try:
        inspect = engine.inspect_container(name)
        state = inspect["State"]
        found = {"state": state["Status"]}
        if state["Status"] != "running":
            ended = f" with code {state['ExitCode']}" if state["Status"] == "exited" else ""
            raise Unhealthy(f"the container is {state['Status']}{ended}", **found)
        health = state.get("Health")
        if not health:
            return {"message": "runs", **found}
        found["health"] = health["Status"]
        if health["Status"] == "healthy":
            return {"message": "runs and is healthy", **found}
        if health["Status"] == "starting":
            passed, output = _docker.run_health_test(engine, name, inspect["Config"]["Healthcheck"]["Test"])
            if passed:
                return {"message": "runs and passes its health test", **found}
        else:
            output = health["Log"][-1]["Output"] if health.get("Log") else ""
    except _docker.NotFound as error:
        raise Unhealthy("there is no such container", state="absent") from error
    except (_docker.DockerException, OSError, ValueError) as error:
        raise Unhealthy(f"Docker Engine: {error}") from error
    last = " ".join(output.split())[-_http.EXCERPT :]
    raise Unhealthy(f"the container is {found['health']}{': ' + last if last else ''}", **found)


CHECKS: dict[str, Callable[[Check, Context, float], Found]] = {
    "http": check_http,
    "vosi": check_vosi,
    "tls": check_tls,
    "tcp": check_tcp,
    "amqp": check_amqp,
    "postgres": check_postgres,
    "container": check_container,
}


def attempt(check: Check, context: Context, timeout: float) -> tuple[dict[str, Any], bool]:
    """Run a check once; return its result and whether it may still change."""
    try:
        found, final, passed = CHECKS[check["kind"]](check, context, timeout), True, True
    except Unhealthy as error:
        found, final, passed = {"message": str(error), **error.found}, error.final, False
    return {
        "service": check["service"],
        "name": check["name"],
        "kind": check["kind"],
        "ok": passed,
        **found,
        # It may quote what a server sent, and people read it on a terminal.
        "message": printable(found["message"]),
    }, final


def follow(check: Check, context: Context, deadline: float, request_timeout: float) -> dict[str, Any]:
    """Repeat a check until it passes, fails for good, or *deadline* (time.monotonic) is reached."""
    began, tries, pause = time.monotonic(), 0, FIRST_PAUSE
    while True:
        tries += 1
        # The last try, too, is given a moment to succeed.
        result, final = attempt(check, context, min(request_timeout, max(1.0, deadline - time.monotonic())))
        if final or time.monotonic() + pause >= deadline:
            return result | {"tries": tries, "seconds": round(time.monotonic() - began, 3)}
        time.sleep(pause)
        pause = min(LONGEST_PAUSE, pause * 1.5)


def watch(
    checks: list[Check], context: Context, timeout: float, request_timeout: float
) -> list[dict[str, Any]]:
    """Follow all checks in parallel for at most *timeout* seconds; return results in the order of the checks."""
    deadline = time.monotonic() + timeout
    # Each check has a thread, so that none waits behind one that hangs.
    with ThreadPoolExecutor(max_workers=max(1, min(len(checks), 64))) as pool:
        return list(pool.map(lambda check: follow(check, context, deadline, request_timeout), checks))
