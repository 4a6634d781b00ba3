"""What Cavern refuses, as a problem that the page tells of."""

from __future__ import annotations

from voservice.problems import Problem
from vospace_client.client import CavernError
from vospace_client.terms import FAULT_BY_STATUS

STATUS = {fault: status for status, fault in FAULT_BY_STATUS.items()} | {
    "NotAuthenticated": 403,
    "ContainerNotFound": 404,
    "OperationNotSupported": 501,
}
WORDS = {
    "PermissionDenied": "You may not do this",
    "NodeNotFound": "There is nothing of this name",
    "ContainerNotFound": "There is no such folder",
    "DuplicateNode": "There is something of this name already",
    "QuotaExceeded": "There is not enough room left",
    "NodeLocked": "It is locked",
}


class Refused(Problem):
    """Cavern's answer, for the user."""

    title = "Refused by VOSpace"

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        """Answer with *status*."""
        super().__init__(detail, headers=headers)
        self.status = status


def refusal(exc: CavernError) -> Refused:
    """Return what an error of Cavern means for the user."""
    if exc.transient:
        return Refused(503, f"VOSpace does not answer at the moment: {exc.detail}", {"Retry-After": "10"})
    words = WORDS.get(exc.fault)
    told = exc.detail if exc.detail != exc.fault else ""
    return Refused(STATUS.get(exc.fault, 400), ": ".join(part for part in (words or exc.fault, told) if part))
