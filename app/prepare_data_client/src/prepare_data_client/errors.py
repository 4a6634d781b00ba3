"""What can go wrong between a client and prepare-data. Every error is a `PrepareDataError`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class PrepareDataError(Exception):
    """Base of the client's errors; the message says what to do."""


class InvalidItem(PrepareDataError):
    """A file of a request is not well described; the message names it. Nothing was sent."""


class InvalidTask(PrepareDataError):
    """The text is no task id. Nothing was sent."""


class Unreachable(PrepareDataError):
    """The service gave no usable answer, also after a few tries: network, TLS, overload or an internal error."""


class WaitTimeout(PrepareDataError):
    """The task had not ended when the caller's patience had; it goes on."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a request: where (a JSON pointer, where known) and what."""

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
    """There is no such task, or it is somebody else's (404)."""
