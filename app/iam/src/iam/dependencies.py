"""Dependencies of handlers: the parts of the service, the caller, and the OAuth client."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import unquote_plus

import jwt
from fastapi import Depends, Form, Request
from voservice.auth import AuthenticationError, bearer
from voservice.pages import Pages

from iam.config import IamSettings
from iam.models.directory import Client, Directory
from iam.models.errors import OAuthError
from iam.services.attempts import Attempts
from iam.services.authorizations import Authorizations
from iam.services.grants import Grants
from iam.services.signer import Signer


@dataclass(frozen=True)
class Context:
    """The parts of the service, made once for each process."""

    settings: IamSettings
    directory: Directory
    signer: Signer
    grants: Grants
    authorizations: Authorizations
    attempts: Attempts
    pages: Pages


async def context(request: Request) -> Context:
    """Return the parts of the service that answers *request*."""
    found: Context = request.app.state.context
    return found


Shared = Annotated[Context, Depends(context)]


async def claims(request: Request, shared: Shared) -> dict[str, Any]:
    """Return the claims of the caller's token. Raises `AuthenticationError`."""
    token = bearer(request.headers.getlist("authorization"))
    if token is None:
        raise AuthenticationError("Send a token: Authorization: Bearer <token>", "")
    try:
        return shared.signer.read(token)
    except jwt.ExpiredSignatureError as exc:
        raise AuthenticationError("The token has expired") from exc
    except jwt.PyJWTError as exc:
        raise AuthenticationError("The token is not one of this issuer's") from exc


async def client(
    request: Request,
    shared: Shared,
    client_id: Annotated[str, Form()] = "",
    client_secret: Annotated[str, Form()] = "",
) -> Client:
    """Return the OAuth client that the Basic credentials or the form prove (RFC 6749 section 2.3.1).

    Raises `OAuthError`.
    """
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        if client_secret:
            raise OAuthError(
                "invalid_request", "client_secret: send it in the header or in the form, not in both"
            )
        try:
            name, _, secret = b64decode(encoded, validate=True).decode().partition(":")
        except ValueError as exc:
            raise OAuthError("invalid_client", "The Basic credentials are not base64", 401) from exc
        client_id, client_secret = unquote_plus(name), unquote_plus(secret)
    found = shared.directory.authenticate(client_id, client_secret)
    if found is None:
        raise OAuthError("invalid_client", "Unknown client or wrong client secret", 401)
    return found


Claims = Annotated[dict[str, Any], Depends(claims)]
OAuthClient = Annotated[Client, Depends(client)]
