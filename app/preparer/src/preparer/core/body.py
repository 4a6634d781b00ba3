"""Reading a request's body within its limit."""

from __future__ import annotations

import json
import re
from typing import Any

from fastapi import Request
from voservice.browsers import is_of
from voservice.problems import Invalid, TooLarge, UnsupportedMediaType

SURROGATE = re.compile("[\ud800-\udfff]")


async def read_json(request: Request, limit: int) -> Any:
    """Read a JSON body of at most *limit* bytes; nothing beyond the limit is ever held."""
    kind = request.headers.get("content-type", "")
    if not is_of(kind, "application/json"):
        raise UnsupportedMediaType(
            f"Content-Type: the body must be sent as application/json, not as {kind[:80]}"
        )
    too_large = TooLarge(f"The body is larger than {limit} bytes; divide the request")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large
    try:
        value = json.loads(bytes(body))
        broken = half_character(value) if b"\\u" in body else None
    except (ValueError, RecursionError) as exc:
        raise Invalid(f"The body is not JSON: {exc}") from exc
    if broken is not None:
        detail = "half of a surrogate pair is no character"
        raise Invalid(f"{broken}: {detail}", errors=[{"pointer": broken, "detail": detail}])
    return value


def half_character(value: Any, pointer: str = "") -> str | None:
    """Pointer to a text that UTF-8 cannot say: JSON's escapes allow a lone surrogate (RFC 8259 section 8.2)."""
    if isinstance(value, str):
        return (pointer or "/") if SURROGATE.search(value) else None
    if isinstance(value, dict):
        for key, inner in value.items():
            if SURROGATE.search(key):
                return pointer or "/"
            if (found := half_character(inner, f"{pointer}/{key}")) is not None:
                return found
    if isinstance(value, list):
        for number, inner in enumerate(value):
            if (found := half_character(inner, f"{pointer}/{number}")) is not None:
                return found
    return None
