"""OpenAPI documents (3.1) of the services: the parts that FastAPI cannot derive from their code.

FastAPI knows only parameters and bodies that it parses itself. Services that parse XML documents, case-insensitive
names and encoded paths from the request describe them here: `complete` adds these descriptions, the security schemes
and the errors, and makes all references resolvable.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI

Object = dict[str, Any]

STRING: Object = {"type": "string"}

TOKEN: Object = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
"""A token of the deployment's issuer."""
CERTIFICATE: Object = {"type": "mutualTLS", "description": "A client certificate, shown to HAProxy"}
CLIENT: Object = {
    "type": "http",
    "scheme": "basic",
    "description": "An OAuth client's id and secret; they may come in the form instead",
}

PROBLEM: Object = {
    "description": "What is wrong, as a problem document (RFC 9457)",
    "content": {
        "application/problem+json": {
            "schema": {
                "type": "object",
                "required": ["type", "title", "status", "detail"],
                "properties": {
                    "type": STRING,
                    "title": STRING,
                    "status": {"type": "integer"},
                    "detail": STRING,
                    "errors": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["pointer", "detail"],
                            "properties": {"pointer": STRING, "detail": STRING},
                        },
                    },
                },
            }
        }
    },
}
LINE: Object = {"description": "What is wrong, in a line", "content": {"text/plain": {"schema": STRING}}}

_METHODS = frozenset({"get", "put", "post", "delete", "head", "patch", "options"})
_IN_PATH = re.compile(r"\{(\w+)\}")


def parameter(name: str, description: str, schema: Object | None = None, where: str = "query") -> Object:
    """Return an optional parameter; *where* is query or header."""
    return {"name": name, "in": where, "description": description, "schema": schema or STRING}


def many(schema: Object) -> Object:
    """Return the schema of a repeatable parameter."""
    return {"type": "array", "items": schema}


def content(*kinds: str, schema: Object | None = None, example: Any = None) -> Object:
    """Return the content of a body with any of the media types *kinds*."""
    entry: Object = {"schema": schema or STRING}
    if example is not None:
        entry["example"] = example
    return {kind: dict(entry) for kind in kinds}


def form(**fields: str) -> Object:
    """Return the content of a form, whose *fields* are described and optional."""
    properties = {name: {"type": "string", "description": text} for name, text in fields.items()}
    return {"application/x-www-form-urlencoded": {"schema": {"type": "object", "properties": properties}}}


def answer(description: str, *kinds: str, schema: Object | None = None) -> Object:
    """Return a response; without media types *kinds* it has no body."""
    return {"description": description} | ({"content": content(*kinds, schema=schema)} if kinds else {})


AVAILABILITY: Mapping[int, Object] = {
    200: answer("VOSI availability; nothing with detail=min", "text/xml"),
    503: answer("With detail=min: it is not available"),
}
CAPABILITIES: Mapping[int, Object] = {200: answer("VOSI capabilities", "text/xml")}
DETAIL = parameter("detail", "min for a status alone")


@dataclass(frozen=True)
class Operation:
    """Description of one method of a path."""

    answers: Mapping[int, Object] = field(default_factory=dict)
    """Responses by status, replacing those that FastAPI assumes."""
    parameters: Collection[Object] = ()
    body: Object | None = None
    """Content of the request's body."""
    required: bool = False
    """Whether the body is required."""


def complete(
    app: FastAPI,
    *,
    prefix: str = "",
    schemes: Mapping[str, Object],
    callers: Collection[str | None],
    others: Mapping[str, Collection[str | None]],
    error: Object,
    operations: Mapping[str, Operation] | None = None,
) -> None:
    """Complete the document of *app*, whose paths begin with *prefix*.

    *callers* names the *schemes* of which a caller uses one, None for anonymous access; *others* names them for
    exceptions, by path, or method and path (``GET /nodes``); *error* describes every error response.
    """
    generate = app.openapi

    def completed() -> Object:
        if app.openapi_schema is None:
            document = generate()
            _complete(document, prefix, schemes, callers, others, error, operations or {})
        return app.openapi_schema or {}

    app.openapi = completed  # type: ignore[method-assign]  # as documented by FastAPI


def _complete(
    document: Object,
    prefix: str,
    schemes: Mapping[str, Object],
    callers: Collection[str | None],
    others: Mapping[str, Collection[str | None]],
    error: Object,
    operations: Mapping[str, Operation],
) -> None:
    known: set[str] = set()
    for whole, item in document["paths"].items():
        path = whole.removeprefix(prefix)
        for method in _METHODS & item.keys():
            name = f"{method.upper()} {path}"
            known |= {name, path}
            described = item[method]
            _say(described, operations.get(name, Operation()))
            _declare_path(described, whole)
            described["responses"].setdefault("default", error)
            described["responses"].pop("422", None)
            allowed = others.get(name, others.get(path, callers))
            described["security"] = [{scheme: []} if scheme else {} for scheme in allowed]
    if unknown := (operations.keys() | others.keys()) - known:
        raise ValueError(f"described, but not implemented: {', '.join(sorted(unknown))}")
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    _hoist(document["paths"], schemas)
    components["securitySchemes"] = dict(schemes)


def _say(described: Object, said: Operation) -> None:
    if said.answers:
        described["responses"] = {str(status): value for status, value in said.answers.items()}
    if said.parameters:
        described.setdefault("parameters", []).extend(said.parameters)
    if said.body is not None:
        described["requestBody"] = {"content": said.body, "required": said.required}


def _declare_path(described: Object, path: str) -> None:
    """Declare parameters of the path that no handler declares."""
    parameters = described.get("parameters", [])
    declared = {one["name"] for one in parameters if one["in"] == "path"}
    missing = [name for name in _IN_PATH.findall(path) if name not in declared]
    if missing:
        described["parameters"] = parameters + [
            {"name": name, "in": "path", "required": True, "schema": STRING} for name in missing
        ]


def _hoist(node: Any, schemas: Object) -> None:
    """Move definitions nested in schemas to where references to them resolve."""
    if isinstance(node, list):
        for one in node:
            _hoist(one, schemas)
    elif isinstance(node, dict):
        for name, schema in node.pop("$defs", {}).items():
            schemas[name] = schema
            _hoist(schema, schemas)
        reference = node.get("$ref")
        if isinstance(reference, str):
            node["$ref"] = reference.replace("#/$defs/", "#/components/schemas/")
        for one in node.values():
            _hoist(one, schemas)
