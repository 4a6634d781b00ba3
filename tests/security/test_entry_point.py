"""Paths that HAProxy blocks, and headers that it adds to every response."""

from __future__ import annotations

import pytest
import requests
import wire
from deployment import Deployment


@pytest.mark.parametrize(
    "path",
    ["/", "/nothing", "/reg/resource-caps", "/src/cavern/availability", "/src/cavern/nothing", "/iam/jwks"],
)
def test_every_response_has_security_headers(
    anonymous: requests.Session, stack: Deployment, path: str
) -> None:
    told = anonymous.get(f"{stack.url}{path}", timeout=30).headers
    assert told["X-Content-Type-Options"] == "nosniff"
    assert told["X-Frame-Options"] == "DENY"
    assert told["Referrer-Policy"] == "no-referrer"
    assert told["Cross-Origin-Resource-Policy"] == "same-origin"
    assert told["Strict-Transport-Security"]
    assert told["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path", ["metrics", "%6detrics", "metrics/", "/metrics", "METRICS", "metrics?name=python_info"]
)
def test_metrics_are_not_public(stack: Deployment, path: str) -> None:
    for service in ("prepare-data", "src/cavern", "src/posix-mapper", "iam"):
        answer = wire.ask(stack, "GET", f"/{service}/{path}")
        assert answer.startswith(b"HTTP/1.1 404"), service
        assert b"prepare_data_tasks" not in answer


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /<evil> HTTP/1.1\r\nHost: x\r\n<evil>\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: <evil>\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: <evil>\r\nHost: <evil>x\r\n\r\n",
        b"GET /" + b"<evil>" * 10_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"<evil>\r\n\r\n",
    ],
    ids=["header", "length", "hosts", "long", "none"],
)
def test_the_rejection_of_a_malformed_request_does_not_quote_it(stack: Deployment, sent: bytes) -> None:
    """HAProxy's built-in page, sent before it applies its configuration, and so without our headers."""
    with wire.connect_tls(stack) as connection:
        connection.sendall(sent)
        answer = b""
        while block := connection.recv(1 << 16):
            answer += block
    assert answer.startswith(b"HTTP/1.1 4")
    assert b"connection: close" in answer.lower()
    assert b"evil" not in answer
