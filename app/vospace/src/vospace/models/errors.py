"""Faults, with the names and status codes of VOSpace 2.1 section 5.5 and of OpenCADC's Cavern.

The body of an error is text/plain, one line that starts with the fault's name; the same text ends up at a job's
`/error`.
"""

from __future__ import annotations

from voservice.texts import legible
from vospace_client.terms import Unavailable


class Fault(Exception):
    """A fault with a name, a status and, mostly, a detail."""

    name = "InternalFault"
    status = 500
    transient = False
    away: Unavailable | None = None
    """What was unavailable, if that is the cause: the file itself may be fine."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail)
        self.detail = detail

    @property
    def text(self) -> str:
        return f"{self.name}: {self.detail}" if self.detail else self.name

    def __str__(self) -> str:
        return self.text


class InvalidURI(Fault):
    name, status = "InvalidURI", 400


class InvalidArgument(Fault):
    name, status = "InvalidArgument", 400


class TypeNotSupported(Fault):
    name, status = "TypeNotSupported", 400


class ViewNotSupported(Fault):
    name, status = "ViewNotSupported", 400


class ProtocolNotSupported(Fault):
    name, status = "ProtocolNotSupported", 400


class NotAuthenticated(Fault):
    name, status = "NotAuthenticated", 401


class PermissionDenied(Fault):
    """Also for anonymous callers, as in Cavern."""

    name, status = "PermissionDenied", 403


class NodeNotFound(Fault):
    name, status = "NodeNotFound", 404


class ContainerNotFound(NodeNotFound):
    """A container above the node is missing or is not a container."""

    name = "ContainerNotFound"


class ExternalLink(InvalidArgument):
    """A link that leads out of the space: it is listed but not followed."""


class UnreadableLinkTarget(Fault):
    name, status = "UnreadableLinkTarget", 404


class DuplicateNode(Fault):
    name, status = "DuplicateNode", 409


class NodeBusy(Fault):
    name, status, transient = "NodeBusy", 409, True


class NodeLocked(Fault):
    name, status = "NodeLocked", 423


class QuotaExceeded(Fault):
    """The body is `limit: N`, in bytes, where the limit is known."""

    name, status = "QuotaExceeded", 413

    def __init__(self, limit: int | None = None) -> None:
        super().__init__("" if limit is None else f"limit: {limit}")


class TransferFailed(Fault):
    """A file could not be fetched, sent or stored; `name` is the fault. `detail` may contain text from a source, made
    safe to store and show."""

    name = "TransferFailed"

    def __init__(
        self,
        name: str,
        detail: str,
        *,
        status: int = 500,
        transient: bool = False,
        away: Unavailable | None = None,
    ) -> None:
        super().__init__(legible(detail))
        self.name = name
        self.status = status
        self.transient = transient
        self.away = away


class RequestTooLarge(Fault):
    """Spelled as Cavern spells it."""

    name, status = "RequestEntityToolarge", 413


class UnsupportedMediaType(Fault):
    name, status = "UnsupportedMediaType", 415


class ChecksumMismatch(Fault):
    name, status = "ChecksumMismatch", 412


class PreconditionFailed(Fault):
    name, status = "PreconditionFailed", 412


class TooManyRequests(Fault):
    """One user, or all anonymous callers together, exceed their share."""

    name, status, transient = "TooManyRequests", 429, True


class ServiceBusy(Fault):
    name, status, transient = "ServiceBusy", 503, True


class JobNotFound(Fault):
    name, status = "JobNotFound", 404
