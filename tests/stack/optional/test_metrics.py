"""Prometheus beside the deployment: it sees every service, and what is done moves what it sees."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from dashboard import EXPRESSIONS, names_in
from deployment import Deployment
from prepare_data_client.did import DID
from tasks import ended, submit

PATIENCE = 90  # s, for what Prometheus sees a few readings later


class Prometheus:
    """Its API, from the host."""

    def __init__(self, stack: Deployment) -> None:
        self._url = f"http://{stack.address('prometheus')}:9090/api/v1"

    def ask(self, path: str, **parameters: str) -> Any:
        answer = requests.get(f"{self._url}/{path}", params=parameters, timeout=30).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def value(self, expression: str) -> float:
        """The sum of what an expression has now; 0 for nothing."""
        return sum(float(found["value"][1]) for found in self.ask("query", query=expression)["result"])

    def wait(self, lacking: Callable[[], Any]) -> None:
        """Wait until what Prometheus has seen lacks nothing."""
        deadline = time.monotonic() + PATIENCE
        while found := lacking():
            assert time.monotonic() < deadline, found
            time.sleep(0.5)


@pytest.fixture(scope="module")
def prometheus(stack: Deployment) -> Prometheus:
    """Prometheus beside the deployment's services."""
    return Prometheus(stack)


def test_every_service_is_seen(stack: Deployment, prometheus: Prometheus) -> None:
    measured = {key for key, service in stack.services.items() if "metrics" in service} | {"prometheus"}

    def unseen() -> dict[str, str]:
        targets = prometheus.ask("targets")["activeTargets"]
        assert {target["labels"]["job"] for target in targets} == measured
        return {
            target["labels"]["job"]: target["lastError"] for target in targets if target["health"] != "up"
        }

    prometheus.wait(unseen)
    # Each has what it needs, and the rules are evaluated.
    prometheus.wait(lambda: prometheus.ask("query", query="service_ready == 0")["result"])
    assert prometheus.value("count(service_ready)") == 4
    groups = prometheus.ask("rules")["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} <= {"ok", "unknown"}


def test_a_staged_file_is_counted(
    stack: Deployment, prometheus: Prometheus, http: requests.Session, rse: Callable[[str, bytes], Path]
) -> None:
    name = f"{uuid.uuid4().hex[:8]}.dat"
    did = f"testing:{name}"
    rse(DID.parse(did).path(), b"x" * 1000)
    counted = {
        'prepare_data_files_total{state="STAGED"}': 1,
        "prepare_data_bytes_total": 1000,
        'vospace_pulls_total{fault=""}': 1,
        "vospace_pulled_bytes_total": 1000,
        'http_requests_total{job="core", method="POST", route="/v1/tasks", status="2xx"}': 1,
        'prepare_data_tasks{state="SUCCEEDED"}': 1,
        'haproxy_backend_http_responses_total{proxy="core", code="2xx"}': 1,
    }
    prometheus.wait(lambda: prometheus.ask("query", query="up == 0")["result"])
    before = {expression: prometheus.value(expression) for expression in counted}
    assert ended(http, submit(http, stack.url, files=[{"did": did}]))["state"] == "SUCCEEDED"
    prometheus.wait(
        lambda: [
            expression
            for expression, more in counted.items()
            if prometheus.value(expression) < before[expression] + more
        ]
    )
    # Of what or for whom is not Prometheus's business.
    values = {
        label
        for found in prometheus.ask("series", **{"match[]": '{job=~".+", job!="prometheus"}'})
        for label in found.values()
    }
    assert not [label for label in values if name in label or "testing" in label]


def test_the_dashboard_has_something_to_show(
    stack: Deployment, prometheus: Prometheus, anonymous: requests.Session
) -> None:
    client = ("cavern-cli", stack.secrets["iam_client_cavern_cli"])
    refused = {"grant_type": "password", "username": "ada", "password": "wrong"}
    assert anonymous.post(f"{stack.url}/iam/token", data=refused, auth=client, timeout=30).status_code == 400
    # Without an alert there is none of this name.
    asked = set.union(*map(names_in, EXPRESSIONS.values())) - {"ALERTS"}
    prometheus.wait(lambda: asked - set(prometheus.ask("label/__name__/values")))
    for expression in EXPRESSIONS.values():
        prometheus.ask("query", query=expression)
