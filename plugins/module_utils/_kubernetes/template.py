# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects of Kubernetes with places for a site's values. Private to the collection.

An object is written once, with `Value` where a site chooses. `evaluate` puts the values in; the chart writes the same
object as a template of Helm. So the two cannot describe different deployments.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]


class KubernetesError(Exception):
    """What a deployment asks for cannot be said in Kubernetes' terms."""


@dataclass(frozen=True)
class Value:
    """The site's value at a dotted path."""

    path: str


@dataclass(frozen=True)
class Digest:
    """SHA-256 of a ConfigMap's data: what makes pods new when their configuration is."""

    config: str


@dataclass(frozen=True)
class Part:
    """An object, the file that it is written to, and the values without all of which there is no such object."""

    file: str
    document: Document
    when: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Kind and name."""
        return f"{self.document['kind']}/{self.document['metadata']['name']}"


def value_at(values: Document, path: str) -> Any:
    """Return the value at a dotted path. Raises KubernetesError."""
    found: Any = values
    for key in path.split("."):
        if not isinstance(found, dict) or key not in found:
            raise KubernetesError(f"values: {path} is missing")
        found = found[key]
    return found


def canonical(data: dict[str, str]) -> str:
    """Return JSON as Helm's toJson writes it: sorted, and with what HTML gives a meaning to escaped."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _evaluated(node: Any, values: Document, configs: dict[str, Document]) -> Any:
    if isinstance(node, Value):
        return value_at(values, node.path)
    if isinstance(node, Digest):
        return hashlib.sha256(canonical(configs[node.config]).encode()).hexdigest()
    if isinstance(node, dict):
        return {key: _evaluated(item, values, configs) for key, item in node.items()}
    if isinstance(node, list):
        return [_evaluated(item, values, configs) for item in node]
    return node


def configurations(parts: list[Part]) -> dict[str, Document]:
    """Return the data of the ConfigMaps by their names."""
    return {
        part.document["metadata"]["name"]: part.document["data"]
        for part in parts
        if part.document["kind"] == "ConfigMap"
    }


def evaluate(parts: list[Part], values: Document) -> list[Part]:
    """Return the objects that a site with these *values* has. Raises KubernetesError."""
    configs = configurations(parts)
    return [
        Part(part.file, _evaluated(part.document, values, configs))
        for part in parts
        if all(value_at(values, path) for path in part.when)
    ]
