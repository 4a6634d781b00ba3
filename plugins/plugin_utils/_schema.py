# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Validate values by the JSON schema of a service's settings. Private to the collection.

Implements the part of JSON Schema that the services' models use, so that the controller needs neither a library nor the
services. Text that spells a boolean or number is accepted, as the service does, which reads the same file.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any

from ansible.module_utils.common.validation import check_type_bool, check_type_float, check_type_int

Schema = dict[str, Any]
Resolve = Callable[[Any], Any]

# What each type is called, and how text or a value of a kindred type becomes one.
SCALARS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "boolean": ("true or false", check_type_bool),
    "integer": ("a whole number", check_type_int),
    "number": ("a number", check_type_float),
}
BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "minimum": ("at least", operator.ge),
    "exclusiveMinimum": ("more than", operator.gt),
    "maximum": ("at most", operator.le),
    "exclusiveMaximum": ("less than", operator.lt),
}


def invalid(name: str, schema: Schema, value: Any, resolve: Resolve) -> Iterator[str]:
    """Yield what is invalid in a value, by the name of each part.

    Templates are resolved by *resolve*, which raises LookupError where that is not possible yet.
    """
    try:
        value = resolve(value)
    except LookupError:
        return
    kind = schema.get("type")
    if isinstance(kind, list):
        # Of single values alone, and each may be any of them.
        if isinstance(value, (list, dict)) or value is None:
            yield f"{name}: give a single value"
    elif kind == "object":
        yield from _object(name, schema, value, resolve)
    elif kind == "array":
        if not isinstance(value, list):
            yield f"{name}: give a list, such as [a, b]"
            return
        for place, item in enumerate(value):
            yield from invalid(f"{name}[{place}]", schema.get("items", {}), item, resolve)
    elif kind in SCALARS:
        yield from _number(name, schema, value)
    elif kind == "string":
        if not isinstance(value, str):
            yield f"{name}: give text; put it into quotes"
        elif "enum" in schema and value not in schema["enum"]:
            yield f"{name}: {value!r} is none of {', '.join(schema['enum'])}"
        elif "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"{name}: {value!r} does not match {schema['pattern']}"


def _object(name: str, schema: Schema, value: Any, resolve: Resolve) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{name}: give a dictionary, such as {{name: value}}"
        return
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    for key, item in value.items():
        if key in known:
            yield from invalid(f"{name}.{key}", known[key], item, resolve)
        elif isinstance(others, dict):
            yield from invalid(f"{name}.{key}", others, item, resolve)
        elif key in schema.get("x-secrets", ()):
            yield f"{name}.{key}: is a secret; give it by secrets_overrides"
        elif not others:
            near = difflib.get_close_matches(str(key), known, n=1)
            yield f"{name}.{key}: there is no such setting" + (f"; is it {near[0]}?" if near else "")
    for key in schema.get("required", ()):
        if key not in value:
            yield f"{name}.{key}: is missing"


def _number(name: str, schema: Schema, value: Any) -> Iterator[str]:
    words, convert = SCALARS[schema["type"]]
    try:
        # A boolean is a number to Python, and to nobody else.
        if isinstance(value, bool) != (schema["type"] == "boolean") and not isinstance(value, str):
            raise TypeError
        value = convert(value)
    except TypeError:
        yield f"{name}: give {words}"
        return
    for bound, (words, holds) in BOUNDS.items():
        if bound in schema and not holds(value, schema[bound]):
            yield f"{name}: {value} is not {words} {schema[bound]}"
