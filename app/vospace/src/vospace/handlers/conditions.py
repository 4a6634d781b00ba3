"""Conditional requests: validators and their comparison (RFC 9110 sections 8.8 and 13)."""

import os
from collections.abc import Callable
from email.utils import parsedate_to_datetime

from starlette.datastructures import Headers

from vospace.models.errors import PreconditionFailed


def tag(found: os.stat_result) -> str:
    """A strong validator: a file is replaced as a whole, never written in place."""
    return f'"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"'


def date(value: str) -> float | None:
    """Seconds since the epoch of an HTTP date, None for what is none."""
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError):
        return None


def reading(asked: Headers, headers: dict[str, str]) -> int | None:
    """304 or 412 where a condition says so of a file with those headers (RFC 9110 section 13.2.2)."""
    current, changed = headers["ETag"], date(headers["Last-Modified"])
    if _unmet(asked, current, changed):
        return 412
    none = asked.get("if-none-match")
    if none is not None:
        return 304 if _matches(none, current, weak=True) else None
    since = date(asked.get("if-modified-since", ""))
    if since is not None and changed is not None and since >= changed:
        return 304
    return None


def writing(asked: Headers) -> Callable[[os.stat_result | None], None]:
    """What the request says of the file that it would replace; raises PreconditionFailed if that, or that there is
    none, does not agree."""
    none = asked.get("if-none-match")

    def require(found: os.stat_result | None) -> None:
        current, changed = (None, None) if found is None else (tag(found), int(found.st_mtime))
        unmet = _unmet(asked, current, changed)
        if unmet is None and none is not None and _matches(none, current, weak=True):
            unmet = "If-None-Match"
        if unmet is not None:
            state = "does not exist" if current is None else f"is there, its ETag is {current}"
            raise PreconditionFailed(f"{unmet}: the file {state}")

    return require


def _unmet(asked: Headers, current: str | None, changed: float | None) -> str | None:
    """The condition under which nothing may be done, If-Match or else If-Unmodified-Since, if it does not hold."""
    match = asked.get("if-match")
    if match is not None:
        return None if _matches(match, current, weak=False) else "If-Match"
    until = date(asked.get("if-unmodified-since", ""))
    return "If-Unmodified-Since" if until is not None and changed is not None and changed > until else None


def _matches(condition: str, current: str | None, *, weak: bool) -> bool:
    """Whether a file with that tag, None for no file, is among those of a condition; a weak tag never fits where the
    strong comparison is asked for."""
    if current is None or condition == "*":
        return current is not None
    tags = [one.strip() for one in condition.split(",")]
    return current in [one.removeprefix("W/") for one in tags if weak or not one.startswith("W/")]
