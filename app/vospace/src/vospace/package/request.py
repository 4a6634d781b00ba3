"""Requests for packages: their targets and format."""

from __future__ import annotations

from vospace_client.terms import FORMAT

from vospace.models.caller import Caller
from vospace.models.errors import Fault, InvalidArgument, PermissionDenied
from vospace.models.uri import Path
from vospace.package.archive import STREAMS, TAR, ZIP
from vospace.space.space import Space
from vospace.transfers.documents import Transfer


def read_package(space: Space, transfer: Transfer) -> tuple[str, list[Path]]:
    """Return the media type and the nodes of a package. Raises a Fault that names the error."""
    kind = (transfer.view.param(FORMAT) if transfer.view else None) or TAR
    if kind not in STREAMS:
        raise InvalidArgument(f"param {FORMAT} must be {TAR} or {ZIP}, not {kind[:80]}")
    return kind, [space.naming.path(target) for target in transfer.targets]


def check_package(space: Space, caller: Caller, transfer: Transfer) -> None:
    """Reject requests that no package can be made for, and for anonymous callers those without a readable node. Raises
    a Fault."""
    _, paths = read_package(space, transfer)
    if caller.anonymous and not any(_is_readable(space, caller, path) for path in paths):
        raise PermissionDenied("nothing of this can be read without a token or a certificate")


def _is_readable(space: Space, caller: Caller, path: Path) -> bool:
    try:
        return bool(space.node(caller, path, follow=True).readable)
    except Fault:
        return False
