"""Clients that connect repeatedly while certificates change."""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployment import Deployment


def fetch(stack: Deployment, context: ssl.SSLContext) -> str:
    """Fetch a document over a new connection; return the fingerprint of the server's certificate."""
    with (
        socket.create_connection((stack.public_name, 443), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=stack.public_name) as secure,
    ):
        secure.sendall(f"GET /reg/resource-caps HTTP/1.0\r\nHost: {stack.public_name}\r\n\r\n".encode())
        status = secure.makefile("rb").readline()
        assert b" 200 " in status, status
        return hashlib.sha256(secure.getpeercert(binary_form=True) or b"").hexdigest()


@contextmanager
def clients(stack: Deployment, ca: Path) -> Iterator[set[str]]:
    """Run clients that trust one CA and connect repeatedly; yield the certificates seen, and raise their errors."""
    context = ssl.create_default_context(cafile=ca)
    seen: set[str] = set()
    failures: list[BaseException] = []
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.wait(0.02):
            try:
                seen.add(fetch(stack, context))
            except (OSError, AssertionError) as error:
                failures.append(error)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()
    assert failures == []
