# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the roles' argument specs say of a deployment's settings. Private to the collection.

Ansible checks a value as it coerces it, and then the roles use it as it was given: the text https://x passes for a
list, and would be joined letter by letter. Lists and dictionaries must therefore be given as such, at every depth. A
single value may be text, as `-e name=value` gives it: roles use booleans and numbers through the filters bool, int and
float alone.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.common.yaml import yaml_load

Spec = dict[str, Any]

CONTAINERS: dict[str, type] = {"list": list, "dict": dict}
NAMES = (
    (bool, "a truth value"),
    (str, "text"),
    (list, "a list"),
    (dict, "a dictionary"),
    (type(None), "nothing"),
)


def specs(root: Path) -> dict[str, dict[str, Spec]]:
    """Specification of every setting of the collection at *root*, by role and name."""
    return {
        file.parent.parent.name: yaml_load(file.read_bytes())["argument_specs"]["main"]["options"]
        for file in sorted(root.glob("roles/*/meta/argument_specs.yml"))
    }


def unknown(given: Iterable[str], roles: dict[str, dict[str, Spec]]) -> Iterator[str]:
    """Tell which of the *given* names begin like a setting of a role and are none."""
    known = {name for options in roles.values() for name in options}
    beginnings = tuple(f"{role}_" for role in roles)
    for name in sorted(set(given) - known):
        if name.startswith(beginnings):
            near = difflib.get_close_matches(name, sorted(known), n=1)
            yield f"{name}: there is no such setting" + (f"; is it {near[0]}?" if near else "")


def misshapen(name: str, spec: Spec, value: Any, resolve: Callable[[Any], Any]) -> Iterator[str]:
    """Tell where in a value a list or dictionary is none, or something else is one.

    Templates are resolved by *resolve*, which raises LookupError where that is not possible yet.
    """
    try:
        value = resolve(value)
    except LookupError:
        return
    kind = spec.get("type", "str")
    if kind in CONTAINERS and not isinstance(value, CONTAINERS[kind]):
        yield f"{name}: {_what(value)} where a {kind} is wanted{_example(name, kind, value)}"
    elif kind == "list":
        inner = spec | {"type": spec.get("elements", "raw")}
        for place, item in enumerate(value):
            yield from misshapen(f"{name}[{place}]", inner, item, resolve)
    elif kind == "dict":
        for key, option in (spec.get("options") or {}).items():
            if value.get(key) is not None:
                yield from misshapen(f"{name}.{key}", option, value[key], resolve)
    elif kind != "raw" and isinstance(value, (list, dict)):
        yield f"{name}: {_what(value)} where a single value is wanted"
    elif kind not in ("raw", "bool") and isinstance(value, bool):
        text = kind in ("str", "path")
        yield f"{name}: {_what(value)} where {'text is wanted; put it into quotes' if text else 'a number is wanted'}"


def _what(value: Any) -> str:
    # Without the value, which may be a secret.
    return next((words for base, words in NAMES if isinstance(value, base)), "a number")


def _example(name: str, kind: str, value: Any) -> str:
    if kind != "list" or not isinstance(value, str) or not name.isidentifier():
        return ""
    items = [part.strip() for part in value.split(",") if part.strip()]
    return f": [{', '.join(items)}] in an inventory, -e '{json.dumps({name: items})}' on the command line"
