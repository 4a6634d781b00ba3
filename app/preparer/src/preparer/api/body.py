"""Reading a request's body within its limits, and within what one user may take of the service."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

from fastapi import Request
from voservice.browsers import is_of
from voservice.problems import Invalid, Problem, TooLarge, TooMany, Unavailable, UnsupportedMediaType

SURROGATE = re.compile("[\ud800-\udfff]")
SMALL = 64 << 10
"""Size in bytes up to which a body counts for nothing."""
TOGETHER = 2
"""Bodies of the largest size for which there is room at a time, for all users together."""
LONGEST = 300.0
"""Seconds within which a body must arrive: it takes memory that others need."""
BACK = {"Retry-After": "5"}
LONGEST_KEY = 255
KEY = re.compile(rf"[\x21-\x7e]{{1,{LONGEST_KEY}}}")


class TooSlow(Problem):
    """The body was not received in time."""

    status, title = 408, "Too slow"


class Arrivals:
    """Limits on the memory that bodies take while this process receives them."""

    def __init__(self, largest: int) -> None:
        """Allow *largest* bytes for one user at a time, and `TOGETHER` times as many for all users."""
        self.largest = largest
        self._held: Counter[str] = Counter()

    @contextmanager
    def hold(self, user: str, size: int) -> Iterator[None]:
        """Count *size* bytes of a body. Raises `TooMany` or `Unavailable` beyond a limit."""
        if self._held[user] + size > self.largest:
            raise TooMany(
                f"Your requests that are on their way have more than {self.largest} bytes", headers=BACK
            )
        if self._held.total() + size > TOGETHER * self.largest:
            raise Unavailable("Too many large requests are on their way", headers=BACK)
        self._held[user] += size
        try:
            yield
        finally:
            self._held[user] -= size
            if not self._held[user]:
                del self._held[user]

    async def read(self, request: Request, user: str, limit: int) -> bytes:
        """Read a body of at most *limit* bytes; nothing beyond the limit is ever held."""
        too_large = TooLarge(f"The body is larger than {limit} bytes; divide the request")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and len(length) < 20 and int(length) > limit:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(LONGEST):
                with ExitStack() as held:
                    counted = SMALL
                    async for chunk in request.stream():
                        body += chunk
                        if len(body) > limit:
                            raise too_large
                        if len(body) > counted:
                            # In steps, so that a body of many small pieces has few of them.
                            step = max(len(body) - counted, SMALL)
                            held.enter_context(self.hold(user, step))
                            counted += step
        except TimeoutError:
            raise TooSlow(
                f"The body did not come within {LONGEST:g} s", headers={"Connection": "close"}
            ) from None
        return bytes(body)


async def read_json(request: Request, arrivals: Arrivals, user: str, limit: int, most: int) -> Any:
    """Read a JSON body of at most *limit* bytes, with no more lists and objects than *most* files need."""
    kind = request.headers.get("content-type", "")
    if not is_of(kind, "application/json"):
        raise UnsupportedMediaType(
            f"Content-Type: the body must be sent as application/json, not as {kind[:80]}"
        )
    body = await arrivals.read(request, user, limit)
    # Each takes memory, many times of what it takes of the body.
    if body.count(b"[") + body.count(b"{") > 2 * most + 1000 or body.count(b",") > 16 * most + 1000:
        raise TooLarge(f"The body has more values than {most} files, which a request may have")
    try:
        value = json.loads(body, parse_constant=_no_constant)
        broken = half_character(value) if b"\\u" in body else None
    except (ValueError, RecursionError) as exc:
        raise Invalid(f"The body is not JSON: {exc}") from exc
    if broken is not None:
        detail = "half of a surrogate pair is no character"
        raise Invalid(f"{broken}: {detail}", errors=[{"pointer": broken, "detail": detail}])
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def idempotency_key(request: Request) -> str | None:
    """Return the `Idempotency-Key` of a request, or None."""
    key = request.headers.get("idempotency-key")
    if key is not None and not KEY.fullmatch(key):
        raise Problem(f"Idempotency-Key: must be 1 to {LONGEST_KEY} visible ASCII characters")
    return key


def half_character(value: Any, pointer: str = "") -> str | None:
    """Return a pointer to a text with a lone surrogate, which JSON allows (RFC 8259 section 8.2) and UTF-8 does not."""
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
