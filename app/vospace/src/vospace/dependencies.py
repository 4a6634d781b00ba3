"""Dependencies of handlers: the parts of the service, and the caller of a request as a user, owner or operator."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Depends, Request
from voservice.logging import bind
from voservice.operations import Operators
from vospace_client.terms import PULL_PROOF

from vospace.config import Settings
from vospace.jobs import Jobs
from vospace.models.caller import Caller
from vospace.models.errors import PermissionDenied
from vospace.services.changes import Changes
from vospace.services.identities import Identities
from vospace.services.preauth import Preauth
from vospace.space.space import Space
from vospace.uws.service import Owner


@dataclass(frozen=True)
class Context:
    """The parts of the service, made once for each process."""

    settings: Settings
    space: Space
    identities: Identities
    changes: Changes
    preauth: Preauth
    jobs: Jobs
    operators: Operators


def context(request: Request) -> Context:
    """Return the parts of the service that answers *request*."""
    found: Context = request.app.state.context
    return found


async def _context(request: Request) -> Context:
    """Return them as a coroutine does: FastAPI runs functions in threads, which costs more than most of the request."""
    return context(request)


Shared = Annotated[Context, Depends(_context)]


async def _identified(request: Request, shared: Context) -> Caller:
    """Return the caller, whatever the state of the service. Raises AuthenticationError."""
    found = await shared.identities.caller(request)
    request.state.caller = found
    if found.username is not None:
        bind(user=found.username)
    return found


async def caller(request: Request, shared: Shared) -> Caller:
    """Return the caller. Raises ServiceBusy when the service is offline."""
    shared.jobs.control.require_readable()
    return await _identified(request, shared)


Reader = Annotated[Caller, Depends(caller)]
"""The caller of a request that reads."""


async def writer(found: Reader, shared: Shared) -> Caller:
    """Return the caller. Raises ServiceBusy unless the service takes changes."""
    shared.jobs.control.require_writable()
    return found


Writer = Annotated[Caller, Depends(writer)]
"""The caller of a request that changes something."""


async def owner(request: Request, found: Reader, shared: Shared) -> Owner:
    """Return the caller as an owner of jobs, which prepare-data proves to be its own where they are."""
    secret = shared.settings.vospace_pull_proof.get_secret_value().encode()
    if secret and PULL_PROOF in request.headers:
        proof = request.headers[PULL_PROOF].encode()
        found = replace(found, trusted=hmac.compare_digest(proof, secret))
    return Owner(found.username, None if found.anonymous else found.record())


JobOwner = Annotated[Owner, Depends(owner)]


async def operator(request: Request, shared: Shared) -> str:
    """Return the name of the caller, who must be an operator or the owner of the root. Raises PermissionDenied."""
    found = await _identified(request, shared)
    if found.username is not None and (
        found.uid == shared.settings.vospace_root_owner_uid
        or shared.operators.include(found.username, found.groups)
    ):
        return found.username
    raise PermissionDenied("permission denied")


Operator = Annotated[str, Depends(operator)]


def rest_of_path(request: Request, shared: Context, prefix: str) -> str:
    """Return what follows *prefix* in the path of a request, as it was sent: an encoded `/` is part of a name."""
    raw: str = request.scope["raw_path"].decode("ascii").split("?", 1)[0]
    prefix = shared.settings.service_path + prefix
    return raw[raw.index(prefix) + len(prefix) :]
