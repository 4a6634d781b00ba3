"""Tokens: issued (RFC 6749, RFC 8693), revoked (RFC 7009), shown to their user, and introspected (RFC 7662)."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form
from fastapi.responses import JSONResponse
from voservice.auth import ACCESS_TOKEN
from voservice.logging import bind

from iam.dependencies import Claims, OAuthClient, Shared
from iam.services.grants import SCOPES, TokenRequest
from iam.services.metrics import ISSUED

router = APIRouter()


@router.post("/token")
async def token(
    shared: Shared,
    client: OAuthClient,
    grant_type: Annotated[str, Form()] = "",
    username: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
    subject_token: Annotated[str, Form()] = "",
    subject_token_type: Annotated[str, Form()] = "",
    requested_token_type: Annotated[str, Form()] = ACCESS_TOKEN,
    actor_token: Annotated[str, Form()] = "",
    expires_in: Annotated[str, Form()] = "",
    audience: Annotated[list[str] | None, Form()] = None,
    scope: Annotated[str, Form()] = " ".join(SCOPES),
    code: Annotated[str, Form()] = "",
    redirect_uri: Annotated[str, Form()] = "",
    code_verifier: Annotated[str, Form()] = "",
    refresh_token: Annotated[str, Form()] = "",
) -> JSONResponse:
    """Issue an access token by one of the grants that the client may use."""
    bind(client=client.client_id, grant=grant_type[:80])
    asked = TokenRequest(
        grant_type=grant_type,
        username=username,
        password=password,
        subject_token=subject_token,
        subject_token_type=subject_token_type,
        requested_token_type=requested_token_type,
        actor_token=actor_token,
        expires_in=expires_in,
        audiences=audience or [],
        scope=scope,
        code=code,
        redirect_uri=redirect_uri,
        code_verifier=code_verifier,
        refresh_token=refresh_token,
    )
    body = shared.grants.issue(client, asked)
    ISSUED.labels(grant_type).inc()
    return JSONResponse(body, headers={"Cache-Control": "no-store"})


@router.post("/revoke")
async def revoke(shared: Shared, client: OAuthClient, token: Annotated[str, Form()] = "") -> dict[str, Any]:
    """End what a refresh token gives access to (RFC 7009); access tokens last until they expire."""
    shared.authorizations.revoke(client, token)
    return {}


@router.get("/userinfo")
@router.post("/userinfo")
async def userinfo(claims: Claims) -> dict[str, Any]:
    """Claims of the caller's token about its user."""
    shown = ("sub", "preferred_username", "groups")
    return {name: claims[name] for name in shown if name in claims}


@router.post("/introspect")
async def introspect(shared: Shared, _: OAuthClient, token: Annotated[str, Form()] = "") -> dict[str, Any]:
    """Whether a token is valid, and its claims."""
    return shared.grants.introspect(token)
