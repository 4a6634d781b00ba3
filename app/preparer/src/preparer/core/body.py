"""Reading a request's body within its limit."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Request
from voservice.problems import Invalid, TooLarge


async def read_json(request: Request, limit: int) -> Any:
    """Read a JSON body of at most *limit* bytes; nothing beyond the limit is ever held."""
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
        return json.loads(bytes(body))
    except (ValueError, RecursionError) as exc:
        raise Invalid(f"The body is not JSON: {exc}") from exc
