"""What handlers depend on: the parts of the service, and the caller of a request as a user, owner or operator.

A handler has one dependency at most, and that is a coroutine: FastAPI takes longer over each further one, and over a
function, which it calls in a thread, than the dependency itself takes.
"""

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


async def _identified(request: Request) -> Caller:
    """Return the caller, whatever the state of the service. Raises AuthenticationError."""
    found = await context(request).identities.caller(request)
    request.state.caller = found
    if found.username is not None:
        bind(user=found.username)
    return found


async def caller(request: Request) -> Caller:
    """Return the caller. Raises ServiceBusy when the service is offline."""
    context(request).jobs.control.require_readable()
    return await _identified(request)


Reader = Annotated[Caller, Depends(caller)]
"""The caller of a request that reads."""


async def writer(request: Request) -> Caller:
    """Return the caller. Raises ServiceBusy unless the service takes changes."""
    found = await caller(request)
    context(request).jobs.control.require_writable()
    return found


Writer = Annotated[Caller, Depends(writer)]
"""The caller of a request that changes something."""


async def owner(request: Request) -> Owner:
    """Return the caller as an owner of jobs, which prepare-data proves to be its own where they are."""
    found = await caller(request)
    secret = context(request).settings.vospace_pull_proof.get_secret_value().encode()
    if secret and PULL_PROOF in request.headers:
        proof = request.headers[PULL_PROOF].encode()
        found = replace(found, trusted=hmac.compare_digest(proof, secret))
    return Owner(found.username, None if found.anonymous else found.record())


JobOwner = Annotated[Owner, Depends(owner)]


async def operator(request: Request) -> str:
    """Return the name of the caller, who must be an operator or the owner of the root. Raises PermissionDenied."""
    shared, found = context(request), await _identified(request)
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
