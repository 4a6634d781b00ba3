"""The dashboard of the role prometheus, and what it asks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

DASHBOARD: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "roles/prometheus/files/grafana/dashboard.json").read_text()
)
EXPRESSIONS: dict[str, str] = {
    f"{panel['title']} {target['refId']}": target["expr"].replace("$__rate_interval", "5m")
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", [])
}
"""Every expression, by the panel's title and the target's letter."""


def names_in(expression: str) -> set[str]:
    """Names of the metrics of an expression: words that are no function, no label and no keyword."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(by|on|without)\s*\([^)]*\)|\"[^\"]*\"", " ", expression)
    words = re.findall(r"[a-zA-Z_:][\w:]*(?!\w*\s*\()\b", bare)
    return {word for word in words if not re.search(rf"\b{word}\s*\(", bare)} - {
        "and",
        "or",
        "unless",
        "by",
        "on",
    }
