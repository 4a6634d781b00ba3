# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A program in a pod whose input or output is a file here. Private to the collection.

The library's own reader keeps all that has arrived in memory, which databases and users' files have no room in.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes import exchange

LIBRARY_ERROR: str | None = None
"""Why the library cannot be imported, None if it can."""
client: Any = None
config: Any = None
streams: Any = None
try:
    client = importlib.import_module("kubernetes.client")
    config = importlib.import_module("kubernetes.config")
    streams = importlib.import_module("kubernetes.stream")
except ImportError:
    LIBRARY_ERROR = traceback.format_exc()

_STDIN, _STDOUT, _STDERR, _STATUS = range(4)
# What servers before 1.30 take in one message without a doubt.
_BLOCK = 1 << 16


class StreamError(Exception):
    """A program in a pod could not be run to its end, or what it sent or got is not whole."""


@dataclass(frozen=True)
class Outcome:
    """What a program came to."""

    rc: int
    bytes: int
    checksum: str
    stderr: str


@dataclass(frozen=True)
class Pod:
    """A pod, by the access to its cluster."""

    api: Any
    namespace: str
    name: str

    @classmethod
    def reached(cls, kubeconfig: str | None, context: str | None, namespace: str, name: str) -> Pod:
        """Return a pod by the access that a file has, or that kubectl would take. Raises StreamError."""
        try:
            access = config.new_client_from_config(config_file=kubeconfig or None, context=context or None)
        except (config.ConfigException, OSError) as error:
            raise StreamError(f"kubeconfig: {error}") from error
        return cls(client.CoreV1Api(access), namespace, name)

    def open(self, command: list[str], stdin: bool, timeout: float) -> Any:
        """Return the connection to a program that this starts. Raises StreamError."""
        try:
            opened = streams.stream(
                self.api.connect_get_namespaced_pod_exec,
                self.name,
                self.namespace,
                command=command,
                stdin=stdin,
                stdout=True,
                stderr=True,
                tty=False,
                binary=True,
                _preload_content=False,
            )
        except client.ApiException as error:
            raise StreamError(f"{self.namespace}/{self.name}: {error.reason}") from error
        opened.sock.settimeout(timeout)
        return opened.sock


class Received:
    """What has arrived on a connection, but for the program's output, which is passed on."""

    def __init__(self, take: Callable[[bytes], Any]) -> None:
        """Give the program's output to *take*."""
        self.take = take
        self.stderr = bytearray()
        self.status = bytearray()

    def message(self, data: bytes) -> None:
        """Sort one message by its channel; the fifth version of the protocol also tells that one is closed."""
        if data[:1] == bytes([_STDOUT]):
            self.take(data[1:])
        elif data[:1] == bytes([_STDERR]):
            self.stderr += data[1:]
        elif data[:1] == bytes([_STATUS]):
            self.status += data[1:]

    def told(self) -> dict[str, Any]:
        """Return what the program in the pod told at its end. Raises StreamError."""
        text = self.stderr.decode(errors="replace")
        _said, mark, last = text.rpartition(exchange.MARK)
        if not mark or json.loads(self.status or b"{}").get("status") != "Success":
            raise StreamError(
                f"the connection ended before the program did: {text.strip() or self.status.decode(errors='replace')}"
            )
        found: dict[str, Any] = json.loads(last)
        return found

    @property
    def said(self) -> str:
        """What the program wrote to its standard error."""
        return self.stderr.decode(errors="replace").rpartition(exchange.MARK)[0].strip()


def _drain(connection: Any, received: Received) -> None:
    """Read what comes until the other side closes the connection. Raises OSError and the library's errors."""
    binary, text, close = 2, 1, 8  # operations of a message, RFC 6455
    while True:
        operation, frame = connection.recv_data_frame(True)
        if operation == close:
            return
        if operation in (binary, text):
            received.message(bytes(frame.data))


def _helper(*arguments: str) -> list[str]:
    return ["python3", "-c", inspect.getsource(exchange), *arguments]


def _run(connection: Any, received: Received, send: Callable[[Callable[[bytes], None]], None]) -> None:
    try:
        send(lambda block: connection.send_binary(bytes([_STDIN]) + block))
        _drain(connection, received)
    except (OSError, _connection_error()) as error:
        # It is told apart by whether the program's end has come.
        if not received.status:
            raise StreamError(f"the connection broke: {error}; {received.said}") from error
    finally:
        connection.close()


def _connection_error() -> type[Exception]:
    found: type[Exception] = importlib.import_module("websocket").WebSocketException
    return found


def save(pod: Pod, command: list[str], dest: Path, timeout: float) -> Outcome:
    """Write a program's output to a file of its owner's, whole or not at all. Raises StreamError and OSError."""
    digest, size = hashlib.sha256(), 0
    part = dest.with_name(f"{dest.name}.part")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:

            def take(block: bytes) -> None:
                nonlocal size
                digest.update(block)
                size += len(block)
                file.write(block)

            received = Received(take)
            _run(pod.open(_helper("out", *command), False, timeout), received, lambda _send: None)
            told = received.told()
            if (size, digest.hexdigest()) != (told["bytes"], told["sha256"]):
                raise StreamError(
                    f"{size} bytes have arrived of {told['bytes']} that were sent, or not these"
                )
            file.flush()
            os.fsync(file.fileno())
        part.rename(dest)
    finally:
        part.unlink(missing_ok=True)
    return Outcome(told["rc"], size, told["sha256"], received.said)


def load(pod: Pod, command: list[str], source: Path, timeout: float) -> Outcome:
    """Run a program with a file as its input. Raises StreamError and OSError."""
    digest, size = hashlib.sha256(), source.stat().st_size
    received = Received(lambda _block: None)

    def send(give: Callable[[bytes], None]) -> None:
        left = size
        with source.open("rb") as file:
            while left and (block := file.read(min(left, _BLOCK))):
                digest.update(block)
                left -= len(block)
                give(block)
        if left:
            raise StreamError(f"{source}: has become shorter")
        give(digest.hexdigest().encode())

    _run(pod.open(_helper("in", str(size), *command), True, timeout), received, send)
    told = received.told()
    if told["rc"] is None or (size, digest.hexdigest()) != (told["bytes"], told["sha256"]):
        raise StreamError(f"{told['bytes']} bytes have arrived of {size} that were sent, or not these")
    return Outcome(told["rc"], size, told["sha256"], received.said)
