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


def unchanged(asked: Headers, headers: dict[str, str]) -> bool:
    """Whether a file with those headers is the one that the reader has (RFC 9110 section 13.2.2). Raises
    PreconditionFailed if it is not the one that is asked for."""
    current, changed = headers["ETag"], date(headers["Last-Modified"])
    if (unmet := _unmet(asked, current, changed)) is not None:
        raise _failed(unmet, current)
    none = asked.get("if-none-match")
    if none is not None:
        return _matches(none, current, weak=True)
    since = date(asked.get("if-modified-since", ""))
    return since is not None and changed is not None and since >= changed


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
            raise _failed(unmet, current)

    return require


def _failed(unmet: str, current: str | None) -> PreconditionFailed:
    state = "does not exist" if current is None else f"is there, its ETag is {current}"
    return PreconditionFailed(f"{unmet}: the file {state}")


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
