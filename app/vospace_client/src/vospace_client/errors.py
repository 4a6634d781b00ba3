"""Errors of requests about files: permanent, transient, or because a service is unavailable."""

from __future__ import annotations

import re
from typing import Literal

import aiohttp
from voservice.texts import legible

Service = Literal["Cavern", "RSE"]

AWAY_STATUS = frozenset({502, 503, 504})
"""Statuses that proxies answer for an unreachable service, and services that cannot serve anybody now."""
PASSING_STATUS = AWAY_STATUS | {408, 423, 425, 429, 500}
"""After these another try may help."""

# What Python, Java and the services themselves say of a host that did not answer them.
_AWAY = re.compile(
    r"(answered|status|HTTP\S*)\W*50[234]\b|refused|reset by|connection reset|disconnected|time ?d? ?out"
    r"|cannot connect|unreachable|no route to host|unknown ?host",
    re.IGNORECASE,
)
_WAIT = re.compile(r"; Retry-After: ([0-9]{1,9})\b")
_URL = re.compile(r"\w+://\S*")


class TransferError(Exception):
    """A transfer failed. ``fault`` is the standard's word for it, ``away`` the service that did not answer."""

    def __init__(
        self,
        fault: str,
        detail: str,
        *,
        transient: bool = False,
        away: Service | None = None,
        retry_after: float | None = None,
    ) -> None:
        """Say what happened and whether trying again may help, at the earliest after so many seconds."""
        detail = legible(detail)
        super().__init__(f"{fault}: {detail}" if detail else fault)
        self.fault = fault
        self.detail = detail or fault
        self.transient = transient or away is not None
        self.away = away
        self.retry_after = retry_after


def is_away(exc: Exception, *, sending: bool = False) -> bool:
    """Whether an HTTP client's error means that the service is away; *sending*: while a file was sent.

    Bytes that break off on their way may be the file's own trouble, and a service may refuse a file without reading all
    of it, so these count as tries of the file. A service that went away then does not answer the next.
    """
    if sending:
        return isinstance(exc, (aiohttp.ClientConnectorError, TimeoutError)) and is_away(exc)
    return not isinstance(
        exc,
        (
            aiohttp.ClientPayloadError,
            aiohttp.ClientResponseError,
            aiohttp.ClientSSLError,
            aiohttp.InvalidURL,
        ),
    )


def on_tape(seconds: float | None) -> str:
    """Return what is told of a file on tape, with the seconds after which its storage element is to be asked again."""
    wait = "" if seconds is None else f"; Retry-After: {round(seconds)}"
    return f"the storage element is bringing it from tape{wait}"


def wait_told(detail: str | None) -> float | None:
    """Return the seconds that such a text asks for."""
    match = _WAIT.search(detail or "")
    return float(match[1]) if match else None


def tells_of_outage(detail: str | None) -> bool:
    """Whether the text of another's failed fetch says that the source was away, not what was wrong with the file."""
    # Names of files are no part of what happened.
    return bool(_AWAY.search(_URL.sub("", detail or "")))
