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
class Chosen:
    """The condition that a site's value at a dotted path is one of some texts."""

    path: str
    among: tuple[str, ...]


@dataclass(frozen=True)
class Value:
    """The site's value at a dotted path: as text where a number has to be one, and on a condition, as a part is."""

    path: str
    text: bool = False
    when: str | Chosen | None = None


@dataclass(frozen=True)
class With:
    """Labels, and those of the site's value at a dotted path that they leave room for."""

    labels: dict[str, str]
    path: str


@dataclass(frozen=True)
class InNamespace:
    """A text with the name of the deployment's namespace in it, as those need who are in another."""

    before: str
    after: str


@dataclass(frozen=True)
class Digest:
    """SHA-256 of a ConfigMap's data: what makes pods new when their configuration is."""

    config: str


@dataclass(frozen=True)
class Part:
    """An object, the file that it is written to, and the conditions without all of which there is no such object.

    A condition is what a value has to be, or the path of one that has to be something.
    """

    file: str
    document: Document
    when: tuple[str | Chosen, ...] = ()

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


def holds(condition: str | Chosen, values: Document) -> bool:
    """Return whether a site's values meet a condition. Raises KubernetesError."""
    if isinstance(condition, Chosen):
        return value_at(values, condition.path) in condition.among
    return bool(value_at(values, condition))


@dataclass(frozen=True)
class _Site:
    """What a site puts into the places."""

    values: Document
    configs: dict[str, Document]
    namespace: str

    def _absent(self, node: Any) -> bool:
        return isinstance(node, Value) and node.when is not None and not holds(node.when, self.values)

    def evaluated(self, node: Any) -> Any:
        """Return a document without places."""
        if isinstance(node, Value):
            found = value_at(self.values, node.path)
            return str(found) if node.text else found
        if isinstance(node, With):
            return {**value_at(self.values, node.path), **node.labels}
        if isinstance(node, InNamespace):
            return f"{node.before}{self.namespace}{node.after}"
        if isinstance(node, Digest):
            return hashlib.sha256(canonical(self.configs[node.config]).encode()).hexdigest()
        if isinstance(node, dict):
            return {key: self.evaluated(item) for key, item in node.items() if not self._absent(item)}
        if isinstance(node, list):
            return [self.evaluated(item) for item in node]
        return node


def configurations(parts: list[Part]) -> dict[str, Document]:
    """Return the data of the ConfigMaps by their names."""
    return {
        part.document["metadata"]["name"]: part.document["data"]
        for part in parts
        if part.document["kind"] == "ConfigMap"
    }


def evaluate(parts: list[Part], values: Document, namespace: str) -> list[Part]:
    """Return the objects that a site with these *values* has in a *namespace*. Raises KubernetesError."""
    site = _Site(values, configurations(parts), namespace)
    return [
        Part(part.file, site.evaluated(part.document))
        for part in parts
        if all(holds(condition, values) for condition in part.when)
    ]
