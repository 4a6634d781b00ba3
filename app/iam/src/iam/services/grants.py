"""Grants of the token endpoint: the clients that get tokens, for which users, and with which claims."""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import jwt
from voservice.auth import ACCESS_TOKEN, EXCHANGE, USERNAME

from iam.config import IamSettings
from iam.models.directory import (
    AUTHORIZATION_CODE,
    CLIENT_CREDENTIALS,
    REFRESH_TOKEN,
    RESOURCE_OWNER,
    Client,
    Directory,
)
from iam.models.errors import OAuthError
from iam.services.authorizations import Authorization, Authorizations
from iam.services.signer import Signer

GRANTS = (AUTHORIZATION_CODE, REFRESH_TOKEN, RESOURCE_OWNER, CLIENT_CREDENTIALS, EXCHANGE)
SCOPES = ("openid", "profile", "groups")
TOKEN_TYPES = (ACCESS_TOKEN, "urn:ietf:params:oauth:token-type:jwt")
_SECONDS = re.compile("[0-9]{1,18}")


@dataclass(frozen=True, kw_only=True)
class TokenRequest:
    """The form of a request for a token (RFC 6749 section 4, RFC 7636, RFC 8693 section 2.1), unchecked.

    ``expires_in`` is no standard parameter: the lifetime wanted, in seconds.
    """

    grant_type: str
    username: str = ""
    password: str = ""
    subject_token: str = ""
    subject_token_type: str = ""
    requested_token_type: str = ACCESS_TOKEN
    actor_token: str = ""
    expires_in: str = ""
    audiences: list[str] = field(default_factory=list)
    scope: str = ""
    code: str = ""
    redirect_uri: str = ""
    code_verifier: str = ""
    refresh_token: str = ""


class Grants:
    """Issues tokens by the grants that a client may use."""

    def __init__(
        self, settings: IamSettings, directory: Directory, signer: Signer, authorizations: Authorizations
    ) -> None:
        """Issue tokens of *signer* to the clients and users of *directory*, and by what users have authorized."""
        self._authorizations = authorizations
        self._settings = settings
        self._directory = directory
        self._signer = signer

    def issue(self, client: Client, asked: TokenRequest) -> dict[str, Any]:
        """Return the body of the answer with a token for *client* (RFC 6749 section 5.1). Raises `OAuthError`."""
        if asked.grant_type not in GRANTS:
            raise OAuthError(
                "unsupported_grant_type", f"grant_type: {asked.grant_type!r} is not one of this issuer's"
            )
        if asked.grant_type not in client.grants:
            raise OAuthError("unauthorized_client", f"The client may not use {asked.grant_type}")
        if asked.grant_type == AUTHORIZATION_CODE:
            found = self._authorizations.redeem(client, asked.code, asked.redirect_uri, asked.code_verifier)
            return self._signed_in(client, found, first=True)
        if asked.grant_type == REFRESH_TOKEN:
            return self._signed_in(client, self._authorizations.refresh(client, asked.refresh_token))
        lifetime = self._lifetime(asked.expires_in)
        scope = asked.scope
        if asked.grant_type == RESOURCE_OWNER:
            name = self.resource_owner(asked.username, asked.password)
        elif asked.grant_type == CLIENT_CREDENTIALS:
            if client.username is None:
                raise OAuthError("unauthorized_client", "The client may not act as a user")
            name = client.username
        else:
            name, granted = self._exchanged(asked)
            scope = " ".join(word for word in scope.split() if word in granted)
        body = self._access(client, name, lifetime, scope, asked.audiences)
        if asked.grant_type == EXCHANGE:
            body |= {"issued_token_type": asked.requested_token_type}
        return body

    def _access(
        self, client: Client, name: str, lifetime: int, scope: str, audiences: list[str]
    ) -> dict[str, Any]:
        audiences = audiences or self._settings.oidc_audiences
        token = self._signer.issue(
            name,
            self._directory.groups(name),
            client.client_id,
            audiences[0] if len(audiences) == 1 else audiences,
            lifetime,
            scope,
        )
        return {"access_token": token, "token_type": "Bearer", "expires_in": lifetime, "scope": scope}

    def _signed_in(self, client: Client, found: Authorization, *, first: bool = False) -> dict[str, Any]:
        """Return the tokens of a user who has signed in; the ID token is given *first* alone."""
        asked = found.asked
        lifetime = min(self._settings.iam_default_lifetime, max(found.until - int(time.time()), 1))
        body = self._access(client, found.username, lifetime, asked.scope, [])
        if first:
            body["id_token"] = self._signer.identify(
                found.username, client.client_id, found.since, lifetime, asked.nonce
            )
        if REFRESH_TOKEN in client.grants:
            body["refresh_token"] = self._authorizations.refresh_token(found)
        return body

    def introspect(self, token: str) -> dict[str, Any]:
        """Return the body of an introspection (RFC 7662 section 2.2)."""
        try:
            claims = self._signer.read(token)
            return {
                "active": True,
                "token_type": "Bearer",
                "username": claims["preferred_username"],
                **claims,
            }
        except jwt.PyJWTError:
            return {"active": False}

    def _lifetime(self, text: str) -> int:
        if not text:
            return self._settings.iam_default_lifetime
        longest = self._settings.iam_max_lifetime
        if not _SECONDS.fullmatch(text) or not 1 <= int(text) <= longest:
            raise OAuthError("invalid_request", f"expires_in: seconds from 1 to {longest}")
        return int(text)

    def resource_owner(self, username: str, password: str) -> str:
        """Return the user whose name and password were given. Raises `OAuthError`."""
        if not USERNAME.match(username):
            raise OAuthError(
                "invalid_request", "username: letters, digits and _.@-, beginning with a letter or digit"
            )
        right = self._settings.iam_user_password.get_secret_value()
        if not secrets.compare_digest(password.encode(), right.encode()):
            raise OAuthError("invalid_grant", "Wrong password")
        return username

    def _exchanged(self, asked: TokenRequest) -> tuple[str, list[str]]:
        """Return user and scopes of the token to be exchanged: one that the services of this deployment accept."""
        if asked.subject_token_type not in TOKEN_TYPES:
            raise OAuthError("invalid_request", f"subject_token_type: {' or '.join(TOKEN_TYPES)}")
        if asked.requested_token_type not in TOKEN_TYPES:
            raise OAuthError("invalid_request", f"requested_token_type: {' or '.join(TOKEN_TYPES)}")
        if asked.actor_token:
            raise OAuthError("invalid_request", "actor_token: delegation is not offered")
        try:
            claims = self._signer.read(asked.subject_token)
        except jwt.PyJWTError as exc:
            raise OAuthError("invalid_grant", "subject_token: not a valid token of this issuer") from exc
        audiences = [claims["aud"]] if isinstance(claims.get("aud"), str) else claims.get("aud") or []
        if not set(audiences) & set(self._settings.oidc_audiences):
            raise OAuthError("invalid_grant", "subject_token: meant for another audience")
        return str(claims["preferred_username"]), str(claims.get("scope", "")).split()
