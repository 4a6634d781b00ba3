"""Raw connections to HAProxy, for requests that no HTTP client would send."""

from __future__ import annotations

import socket
import ssl
import time
from urllib.parse import urlsplit

from deployment import Deployment


def connect(stack: Deployment, timeout: float = 30, receive_buffer: int | None = None) -> socket.socket:
    """Open a TCP connection to the published port, with a receive buffer of *receive_buffer* bytes."""
    parts = urlsplit(stack.url)
    connection = socket.socket()
    connection.settimeout(timeout)
    if receive_buffer is not None:
        # The window is announced in the first packet.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        connection.connect((str(parts.hostname), parts.port or 443))
    except OSError:
        connection.close()
        raise
    return connection


def connect_tls(stack: Deployment, timeout: float = 30, receive_buffer: int | None = None) -> ssl.SSLSocket:
    """Open a TLS connection for HTTP/1.1."""
    context = ssl.create_default_context(cafile=stack.ca)
    return context.wrap_socket(connect(stack, timeout, receive_buffer), server_hostname=stack.public_name)


def request(stack: Deployment, method: str, target: str, *headers: str) -> bytes:
    """Return the start of a request with exactly these headers besides Host, up to the empty line."""
    lines = (f"{method} {target} HTTP/1.1", f"Host: {urlsplit(stack.url).netloc}", *headers, "", "")
    return "\r\n".join(lines).encode()


def ask(stack: Deployment, method: str, target: str, *headers: str) -> bytes:
    """Send a request without a body; return the whole response, after which the connection is closed."""
    with connect_tls(stack) as connection:
        connection.sendall(request(stack, method, target, "Connection: close", *headers))
        answer = b""
        while block := connection.recv(1 << 16):
            answer += block
    return answer


def dribble(connection: socket.socket, interval: float, longest: float) -> tuple[bytes, float]:
    """Send a byte each *interval* seconds until the server ends the request; return its response and the time."""
    begin = time.monotonic()
    answer, due = b"", begin + interval
    connection.settimeout(0.2)
    while (now := time.monotonic()) < begin + longest:
        try:
            block = connection.recv(1 << 16)
            if not block:
                return answer, now - begin
            answer += block
            if b"\r\n\r\n" in answer:
                return answer, now - begin
        except TimeoutError:
            pass
        except OSError:
            return answer, now - begin
        if now >= due:
            due += interval
            try:
                connection.sendall(b" ")
            except OSError:
                return answer, now - begin
    return answer, longest
