"""What HAProxy keeps to itself, and what it says of every answer."""

from __future__ import annotations

import pytest
import requests
import wire
from deployment import Deployment


@pytest.mark.parametrize(
    "path",
    ["/", "/nothing", "/reg/resource-caps", "/src/cavern/availability", "/src/cavern/nothing", "/iam/jwks"],
)
def test_every_answer_tells_browsers_to_be_careful(
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
def test_metrics_stay_inside(stack: Deployment, path: str) -> None:
    for service in ("prepare-data", "src/cavern", "src/posix-mapper", "iam"):
        answer = wire.ask(stack, "GET", f"/{service}/{path}")
        assert answer.startswith(b"HTTP/1.1 404"), service
        assert b"prepare_data_tasks" not in answer
