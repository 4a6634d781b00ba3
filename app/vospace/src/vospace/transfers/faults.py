"""Texts of failed jobs, which clients compare."""

from __future__ import annotations

from vospace.models import errors
from vospace.models.errors import Fault
from vospace.uws.model import JobFailure

_BARE = (
    errors.PermissionDenied,
    errors.NotAuthenticated,
    errors.NodeBusy,
    errors.NodeLocked,
    errors.QuotaExceeded,
)


def job_text(fault: Fault) -> str:
    """Return the fault's text; only its name where clients take the whole text for the name."""
    if isinstance(fault, _BARE) or type(fault) is errors.NodeNotFound:
        return fault.name
    return fault.text


def job_failure(fault: Fault) -> JobFailure:
    return JobFailure(job_text(fault), transient=fault.transient)
