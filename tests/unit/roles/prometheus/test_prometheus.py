"""The rules and the dashboard of the role prometheus, by promtool and by the names that the services' code has."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from dashboard import DASHBOARD, EXPRESSIONS, names_in

ROOT = Path(__file__).parents[4]
RULES = yaml.safe_load((ROOT / "roles/prometheus/files/rules.yml").read_text())
OTHERS = re.compile(r"up|ALERTS|(haproxy|rabbitmq|process|nginx)_\w+")
"""What Prometheus, HAProxy, RabbitMQ, nginx and the client library name; the deployed stack is asked for these."""
PARTS = ("", "_total", "_bucket", "_sum", "_count")


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def of_the_code() -> set[str]:
    """Names of the metrics that the services' code declares."""
    found = set()
    for file in ROOT.glob("app/*/src/**/*.py"):
        found |= set(
            re.findall(
                r"\b(?:gauge|Counter|Gauge|Histogram|CounterMetricFamily)\(\s*\"(\w+)\"", file.read_text()
            )
        )
    return {name + part for name in found for part in PARTS}


def test_every_alert_is_tested_and_fires_when_it_should() -> None:
    promtool("test", "rules", str(Path(__file__).parent / "rules_test.yml"))
    tests = yaml.safe_load((Path(__file__).parent / "rules_test.yml").read_text())["tests"]
    expected = [alert for test in tests for alert in test.get("alert_rule_test", [])]
    alerts = {rule["alert"] for group in RULES["groups"] for rule in group["rules"] if "alert" in rule}
    assert {alert["alertname"] for alert in expected if alert.get("exp_alerts")} == alerts


def test_alerts_say_how_urgent_they_are_and_what_to_do() -> None:
    for rule in (rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule):
        assert rule["labels"]["severity"] in ("critical", "warning"), rule
        assert set(rule["annotations"]) == {"summary", "action"}, rule
        assert rule["for"], rule


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    assert {"uid", "title", "schemaVersion", "panels", "templating", "time"} <= DASHBOARD.keys()
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place: dict[str, Any] = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["type"] in ("stat", "timeseries")
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["targets"]
        assert panel["fieldConfig"]["defaults"]["unit"]


def test_expressions_can_be_parsed(tmp_path: Path) -> None:
    rules = [
        {"record": "x", "expr": text, "labels": {"n": str(n)}} for n, text in enumerate(EXPRESSIONS.values())
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(file))


@pytest.mark.parametrize("source", ["rules", "dashboard"])
def test_whatever_is_asked_for_exists(source: str) -> None:
    recorded = {rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule}
    if source == "rules":
        asked = {
            rule.get("alert") or rule["record"]: rule["expr"]
            for group in RULES["groups"]
            for rule in group["rules"]
        }
    else:
        asked = EXPRESSIONS
    known = of_the_code() | recorded
    for place, expression in asked.items():
        names = names_in(expression)
        assert names, place
        unknown = {name for name in names if name not in known and not OTHERS.fullmatch(name)}
        assert not unknown, place
