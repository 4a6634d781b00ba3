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
    match = asked.get("if-match")
    if match is not None:
        if match != "*" and current not in _tags(match, weak=False):
            return 412
    elif changed is not None and changed > (date(asked.get("if-unmodified-since", "")) or changed):
        return 412
    none = asked.get("if-none-match")
    if none is not None:
        return 304 if none == "*" or current in _tags(none, weak=True) else None
    since = date(asked.get("if-modified-since", ""))
    if since is not None and changed is not None and since >= changed:
        return 304
    return None


def writing(asked: Headers) -> Callable[[os.stat_result | None], None]:
    """What the request says of the file that it would replace; raises PreconditionFailed if that, or that there is
    none, does not agree."""
    match, none = asked.get("if-match"), asked.get("if-none-match")
    until = date(asked.get("if-unmodified-since", "")) if match is None else None

    def require(found: os.stat_result | None) -> None:
        current = None if found is None else tag(found)
        if match is not None and (
            current is None or (match != "*" and current not in _tags(match, weak=False))
        ):
            raise PreconditionFailed(f"If-Match: the file {_state(current)}")
        if until is not None and found is not None and int(found.st_mtime) > until:
            raise PreconditionFailed(f"If-Unmodified-Since: the file {_state(current)}")
        if none is not None and current is not None and (none == "*" or current in _tags(none, weak=True)):
            raise PreconditionFailed(f"If-None-Match: the file {_state(current)}")

    return require


def _state(current: str | None) -> str:
    return "does not exist" if current is None else f"is there, its ETag is {current}"


def _tags(value: str, *, weak: bool) -> list[str]:
    """Entity tags of a condition; a weak one never fits where the strong comparison is asked for."""
    tags = [one.strip() for one in value.split(",")]
    return [one.removeprefix("W/") for one in tags if weak or not one.startswith("W/")]
