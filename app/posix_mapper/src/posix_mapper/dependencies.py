"""Dependencies of handlers: the parts of the service, the caller, and parameters as OpenCADC's service reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import Depends, Request
from starlette.exceptions import HTTPException
from voservice.auth import AuthenticationError, Identity, TokenVerifier, bearer
from voservice.logging import bind
from voservice.operations import Operators

from posix_mapper.models.errors import BadParameter
from posix_mapper.services.mapping import Mapping


@dataclass(frozen=True)
class Context:
    """The parts of the service, made once for each process."""

    verifier: TokenVerifier
    mapping: Mapping
    administrators: frozenset[str]
    operators: Operators


async def context(request: Request) -> Context:
    """Return the parts of the service that answers *request*."""
    found: Context = request.app.state.context
    return found


Shared = Annotated[Context, Depends(context)]


async def caller(request: Request, shared: Shared) -> Identity:
    """Return the identity in the token. Raises `AuthenticationError`."""
    token = bearer(request.headers.getlist("authorization"))
    if token is None:
        raise AuthenticationError("Caller is not authenticated.", "")
    identity = await shared.verifier.verify(token)
    request.state.caller = identity
    bind(user=identity.username)
    return identity


Caller = Annotated[Identity, Depends(caller)]


async def operator(request: Request, shared: Shared) -> str:
    """Return the caller's name, who must be an operator; without a token the response is 403 instead of 401."""
    if bearer(request.headers.getlist("authorization")) is not None:
        identity = await caller(request, shared)
        # Membership in a group with an administrator's name does not make a user an operator.
        if identity.username in shared.administrators or shared.operators.include(
            identity.username, identity.groups
        ):
            return identity.username
    raise HTTPException(403, "permission denied")


def parameters(request: Request, *names: str) -> list[list[str]]:
    """Return the values of the query's parameters *names*, which are case-insensitive."""
    items = request.query_params.multi_items()
    return [[value for key, value in items if key.lower() == name] for name in names]


async def log_parameters(request: Request) -> tuple[list[str], list[str]]:
    """Return the values of ``level`` and ``package``, of the query and the form. Raises `BadParameter`."""
    items = [*request.query_params.multi_items(), *_form(await request.body())]
    level, packages = (
        [value for key, value in items if key.lower() == name] for name in ("level", "package")
    )
    return level, packages


def _form(body: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=1000)
    except ValueError:
        raise BadParameter("the form cannot be read: it must be urlencoded UTF-8") from None
