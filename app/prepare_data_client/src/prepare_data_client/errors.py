"""Errors of the client. Each one is a `PrepareDataError`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class PrepareDataError(Exception):
    """Base of the client's errors; the message says what to do."""


class InvalidItem(PrepareDataError):
    """The description of a file is invalid; the message names it. Nothing was sent."""


class InvalidTask(PrepareDataError):
    """The text is not a task id. Nothing was sent."""


class Unreachable(PrepareDataError):
    """No usable response after several attempts: network, TLS, overload or an internal error of the service."""


class WaitTimeout(PrepareDataError):
    """The timeout expired before the task ended; the task goes on."""


@dataclass(frozen=True)
class Fault:
    """An error in a request: a JSON pointer (RFC 6901), if known, and the detail."""

    pointer: str
    detail: str


class Refused(PrepareDataError):
    """The service refused a request (RFC 9457)."""

    def __init__(self, status: int, title: str, detail: str, faults: Sequence[Fault] = ()) -> None:
        """Keep the problem's members."""
        text = f"{title} ({status})" + (f": {detail}" if detail and detail != title else "")
        shown = "".join(f"\n  {fault.pointer}: {fault.detail}" for fault in faults if fault.detail != detail)
        super().__init__(text + shown)
        self.status, self.title, self.detail, self.faults = status, title, detail, tuple(faults)


class Unauthorized(Refused):
    """The token is missing, invalid or not enough (401, 403)."""


class NotFound(Refused):
    """There is no such task, or it belongs to somebody else (404)."""
