# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A setting that is a boolean or a number works as well when it is given as text, as `-e name=value` does.

Wherever an expression decides or calculates with one, it goes through the filter of its type first. Whatever passes it
on as it is hands it to something that takes text: a file, an environment, or an option of a module, which has a type.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import pytest
import yaml
from ansible_collections.skasrc.cavern.plugins.plugin_utils import _settings
from jinja2 import nodes

ROOT = Path(__file__).parents[3]
FILTERS = {"bool": {"bool"}, "int": {"int", "string"}, "float": {"float", "string"}}
# Keys of tasks whose text is an expression without braces.
BARE = ("when", "that", "until", "changed_when", "failed_when", "loop")
ENVIRONMENT = jinja2.Environment(extensions=[jinja2.ext.loopcontrols, jinja2.ext.do])  # noqa: S701 - only parsed


def _typed() -> dict[str, str]:
    """Type of every setting that is a boolean or a number, and of every such variable of a play."""
    found = {
        name: spec["type"]
        for options in _settings.specs(ROOT).values()
        for name, spec in options.items()
        if spec.get("type") in FILTERS
    }
    for file in ROOT.glob("playbooks/*.yml"):
        for play in yaml.safe_load(file.read_text()):
            for name, value in (play.get("vars") or {}).items():
                if isinstance(value, (bool, int)):
                    found[name] = type(value).__name__
    return found


TYPED = _typed()


def _texts(node: Any, bare: bool = False) -> Iterator[tuple[str, bool]]:
    """Each text of a YAML document, and whether it is an expression as it stands."""
    if isinstance(node, str):
        yield node, bare
    elif isinstance(node, list):
        for item in node:
            yield from _texts(item, bare)
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _texts(value, key in BARE)


def _sources() -> Iterator[tuple[Path, str]]:
    for pattern in (
        "roles/*/vars/*.yml",
        "roles/*/tasks/*.yml",
        "roles/*/defaults/*.yml",
        "playbooks/**/*.yml",
    ):
        for file in ROOT.glob(pattern):
            for text, bare in _texts(yaml.safe_load(file.read_text())):
                if bare and "{{" not in text:
                    yield file, "{{ (" + text + ") and true }}"
                elif "{{" in text or "{%" in text:
                    yield file, text
    for pattern in ("roles/**/*.j2", "playbooks/**/*.j2"):
        for file in ROOT.glob(pattern):
            yield file, file.read_text()


def _setting(node: nodes.Node | None) -> str | None:
    """Name of the typed setting that an expression is, with or without a default."""
    while isinstance(node, nodes.Filter) and node.name == "default":
        node = node.node
    return node.name if isinstance(node, nodes.Name) and node.name in TYPED else None


def _untyped(node: nodes.Node, parent: nodes.Node | None = None) -> Iterator[str]:
    """Names of typed settings that are used in a way that takes their type for granted."""
    name = _setting(node)
    if name is None:
        for child in node.iter_child_nodes():
            yield from _untyped(child, node)
        return
    filtered = isinstance(parent, nodes.Filter) and parent.name in FILTERS[TYPED[name]]
    # Handed on as it is: as all of an expression, as a value of a dictionary, or by its name.
    if not filtered and not isinstance(parent, (nodes.Output, nodes.Pair, nodes.Concat, nodes.Keyword)):
        yield name


def test_settings_are_used_by_their_type() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}: {name} without | {TYPED[name]}"
        for file, text in _sources()
        for name in _untyped(ENVIRONMENT.parse(text))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "text",
    [
        "{{ 'a' if images_rebuild else 'b' }}",
        "{% if haproxy_client_certificates %}a{% endif %}",
        "{{ deployment_https_port == 443 }}",
        "{{ cavern_root_owner_uid + 1 }}",
        "{{ not deployment_prune }}",
    ],
)
def test_and_others_would_be_found(text: str) -> None:
    assert list(_untyped(ENVIRONMENT.parse(text)))
