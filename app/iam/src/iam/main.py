"""The issuer's application."""

from __future__ import annotations

import re
import secrets
import time
from base64 import b64decode
from typing import Annotated, Any
from urllib.parse import unquote_plus, urlsplit

import jwt
from fastapi import FastAPI, Form, Request
from fastapi.responses import JSONResponse, Response
from voservice import docs, openapi, vosi
from voservice.auth import ACCESS_TOKEN, EXCHANGE, USERNAME, AuthenticationError, bearer
from voservice.config import load
from voservice.logging import AccessLog, bind, configure
from voservice.middleware import protect
from voservice.proxy import client_address
from voservice.responses import text, xml

from iam.config import CLIENT_CREDENTIALS, RESOURCE_OWNER, Client, Directory, IamSettings
from iam.tokens import ALGORITHM, Signer

LARGEST_BODY = 64 << 10
NUMBER = re.compile("[0-9]{1,18}")
SCOPES = ("openid", "profile", "groups")
ERROR = {
    "description": "What is wrong (RFC 6749 section 5.2), or a line of text",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["error"],
                "properties": {"error": openapi.STRING, "error_description": openapi.STRING},
            }
        },
        **openapi.LINE["content"],
    },
}
OPERATIONS = {
    "GET /gms/search": openapi.Operation(
        {200: openapi.answer("A group a line", "text/plain")},
        [
            openapi.parameter("group", "Only these groups", openapi.many(openapi.STRING)),
            openapi.parameter("user", "Whose groups, for services that may ask"),
        ],
    ),
    "GET /gms/availability": openapi.Operation(openapi.AVAILABILITY),
    "GET /gms/capabilities": openapi.Operation(openapi.CAPABILITIES),
}
"""What is read from the request itself, where FastAPI does not see it."""
TOKEN_TYPES = (ACCESS_TOKEN, "urn:ietf:params:oauth:token-type:jwt")


class OAuthError(Exception):
    """An error of the token endpoint (RFC 6749 section 5.2)."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        """Keep the code, what to do about it, and the HTTP status."""
        super().__init__(description)
        self.error, self.description, self.status = error, description, status


def authenticate(request: Request, known: Directory, client_id: str, client_secret: str) -> Client:
    """Return the client that the request's Basic credentials or form fields prove (RFC 6749 section 2.3.1)."""
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
    client = known.authenticate(client_id, client_secret)
    if client is None:
        raise OAuthError("invalid_client", "Unknown client or wrong client secret", 401)
    return client


def create_app() -> FastAPI:
    """Build the application from the environment."""
    settings = load(IamSettings)
    configure("iam", settings.log_level)
    known = Directory.read(settings.iam_clients_file)
    signer = Signer(settings.oidc_issuer, settings.iam_signing_key.get_secret_value())
    issuer = settings.oidc_issuer
    here = issuer.rstrip("/")
    base = urlsplit(here).path
    app = FastAPI(
        title="Issuer for development",
        description="OpenID Connect issuer and group service. It trusts whoever holds the deployment's secrets.",
        docs_url=None,
        openapi_url=f"{base}/openapi.json",
        redoc_url=None,
    )
    protect(app, settings, lambda status, reason: text(f"{reason}\n", status), LARGEST_BODY)
    app.add_middleware(AccessLog, quiet=(f"{base}/health",))
    docs.install(app, base)

    @app.exception_handler(OAuthError)
    async def refuse(_: Request, exc: OAuthError) -> JSONResponse:
        headers = {"Cache-Control": "no-store"} | (
            {"WWW-Authenticate": 'Basic realm="iam"'} if exc.status == 401 else {}
        )
        return JSONResponse({"error": exc.error, "error_description": exc.description}, exc.status, headers)

    @app.exception_handler(AuthenticationError)
    async def challenge(_: Request, exc: AuthenticationError) -> Response:
        return text(exc.description + "\n", exc.status, exc.headers)

    def caller(request: Request) -> dict[str, Any]:
        """Claims of the caller's token."""
        token = bearer(request.headers.getlist("authorization"))
        if token is None:
            raise AuthenticationError("Send a token: Authorization: Bearer <token>", "")
        try:
            return signer.read(token)
        except jwt.ExpiredSignatureError as exc:
            raise AuthenticationError("The token has expired") from exc
        except jwt.PyJWTError as exc:
            raise AuthenticationError("The token is not one of this issuer's") from exc

    @app.get(f"{base}/.well-known/openid-configuration")
    async def metadata() -> dict[str, Any]:
        return {
            "issuer": issuer,
            "jwks_uri": f"{here}/jwks",
            "token_endpoint": f"{here}/token",
            "userinfo_endpoint": f"{here}/userinfo",
            "introspection_endpoint": f"{here}/introspect",
            "grant_types_supported": [RESOURCE_OWNER, CLIENT_CREDENTIALS, EXCHANGE],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "id_token_signing_alg_values_supported": [ALGORITHM],
            "response_types_supported": [],  # without an authorization endpoint there is none
            "subject_types_supported": ["public"],
            "scopes_supported": list(SCOPES),
            "claims_supported": ["sub", "preferred_username", "groups"],
        }

    @app.get(f"{base}/jwks")
    async def jwks() -> dict[str, Any]:
        return signer.jwks

    @app.post(f"{base}/token")
    async def token(
        request: Request,
        grant_type: Annotated[str, Form()] = "",
        client_id: Annotated[str, Form()] = "",
        client_secret: Annotated[str, Form()] = "",
        username: Annotated[str, Form()] = "",
        password: Annotated[str, Form()] = "",
        subject_token: Annotated[str, Form()] = "",
        subject_token_type: Annotated[str, Form()] = "",
        requested_token_type: Annotated[str, Form()] = ACCESS_TOKEN,
        actor_token: Annotated[str, Form()] = "",
        expires_in: Annotated[str, Form()] = "",
        audience: Annotated[list[str] | None, Form()] = None,
        scope: Annotated[str, Form()] = " ".join(SCOPES),
    ) -> JSONResponse:
        client = authenticate(request, known, client_id, client_secret)
        bind(client=client.client_id, grant=grant_type[:80])
        if grant_type not in {RESOURCE_OWNER, CLIENT_CREDENTIALS, EXCHANGE}:
            raise OAuthError(
                "unsupported_grant_type", f"grant_type: {grant_type!r} is not one of this issuer's"
            )
        if grant_type not in client.grants:
            raise OAuthError("unauthorized_client", f"The client may not use {grant_type}")
        lifetime = _lifetime(expires_in, settings)
        if grant_type == RESOURCE_OWNER:
            name = _user(username, password, settings)
        elif grant_type == CLIENT_CREDENTIALS:
            if client.username is None:
                raise OAuthError("unauthorized_client", "The client acts as no user")
            name = client.username
        else:
            if subject_token_type not in TOKEN_TYPES:
                raise OAuthError("invalid_request", f"subject_token_type: {' or '.join(TOKEN_TYPES)}")
            if requested_token_type not in TOKEN_TYPES:
                raise OAuthError("invalid_request", f"requested_token_type: {' or '.join(TOKEN_TYPES)}")
            if actor_token:
                raise OAuthError("invalid_request", "actor_token: delegation is not offered")
            name, granted = _subject(subject_token, signer, settings)
            scope = " ".join(word for word in scope.split() if word in granted)
        audiences = audience or settings.oidc_audiences
        access = signer.issue(
            name,
            known.groups(name),
            client.client_id,
            audiences[0] if len(audiences) == 1 else audiences,
            lifetime,
            scope,
        )
        body = {"access_token": access, "token_type": "Bearer", "expires_in": lifetime, "scope": scope}
        if grant_type == EXCHANGE:
            body |= {"issued_token_type": requested_token_type}
        return JSONResponse(body, headers={"Cache-Control": "no-store"})

    @app.get(f"{base}/userinfo")
    @app.post(f"{base}/userinfo")
    async def userinfo(request: Request) -> dict[str, Any]:
        claims = caller(request)
        told = ("sub", "preferred_username", "groups")
        return {name: claims[name] for name in told if name in claims}

    @app.post(f"{base}/introspect")
    async def introspect(
        request: Request,
        token: Annotated[str, Form()] = "",
        client_id: Annotated[str, Form()] = "",
        client_secret: Annotated[str, Form()] = "",
    ) -> dict[str, Any]:
        authenticate(request, known, client_id, client_secret)
        try:
            claims = signer.read(token)
            return {
                "active": True,
                "token_type": "Bearer",
                "username": claims["preferred_username"],
                **claims,
            }
        except jwt.PyJWTError:
            return {"active": False}

    @app.get(f"{base}/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "time": time.strftime("%FT%TZ", time.gmtime())}

    gms = f"{here}/gms"

    @app.get(f"{base}/gms/search")
    async def search(request: Request) -> Response:
        """Groups of the caller, one a line (GMS 1.0); ``group`` asks for some of them only.

        A service that may know everybody's asks with ``user`` for the groups of somebody who came with a certificate,
        on whose behalf it can ask nothing.
        """
        claims = caller(request)
        user = request.query_params.get("user")
        if user is not None and not known.reads_groups(claims.get("client_id", "")):
            return text("permission denied: user\n", 403)
        mine = known.groups(user or claims["preferred_username"])
        asked = request.query_params.getlist("group")
        names = [name for name in mine if not asked or name in asked]
        headers = {"X-VO-Authenticated": claims["preferred_username"]}
        return text("".join(f"{name}\n" for name in names), headers=headers)

    @app.get(f"{base}/gms/capabilities")
    async def capabilities() -> Response:
        entries = [
            vosi.Capability("ivo://ivoa.net/std/GMS#search-1.0", f"{gms}/search", methods=(vosi.TOKEN,)),
            vosi.Capability(
                "ivo://ivoa.net/std/VOSI#availability", f"{gms}/availability", methods=(vosi.ANONYMOUS,)
            ),
            vosi.Capability(
                "ivo://ivoa.net/std/VOSI#capabilities", f"{gms}/capabilities", methods=(vosi.ANONYMOUS,)
            ),
        ]
        return xml(vosi.capabilities(entries))

    @app.get(f"{base}/gms/availability")
    async def availability(request: Request) -> Response:
        address = client_address(request)
        return xml(vosi.availability(True, "accepting requests", address))

    openapi.complete(
        app,
        prefix=base,
        schemes={"token": openapi.TOKEN, "client": openapi.CLIENT},
        callers=(None,),
        others={
            **dict.fromkeys(("/token", "/introspect"), ("client", None)),
            **dict.fromkeys(("/userinfo", "/gms/search"), ("token",)),
        },
        error=ERROR,
        operations=OPERATIONS,
    )
    return app


def _lifetime(text: str, settings: IamSettings) -> int:
    if not text:
        return settings.iam_default_lifetime
    if not NUMBER.fullmatch(text) or not 1 <= int(text) <= settings.iam_max_lifetime:
        raise OAuthError("invalid_request", f"expires_in: seconds from 1 to {settings.iam_max_lifetime}")
    return int(text)


def _subject(token: str, signer: Signer, settings: IamSettings) -> tuple[str, list[str]]:
    """User and scopes of a token that is to be exchanged: one that the services of this deployment accept."""
    try:
        claims = signer.read(token)
    except jwt.PyJWTError as exc:
        raise OAuthError("invalid_grant", "subject_token: not a valid token of this issuer") from exc
    audiences = [claims["aud"]] if isinstance(claims.get("aud"), str) else claims.get("aud") or []
    if not set(audiences) & set(settings.oidc_audiences):
        raise OAuthError("invalid_grant", "subject_token: meant for another audience")
    return str(claims["preferred_username"]), str(claims.get("scope", "")).split()


def _user(username: str, password: str, settings: IamSettings) -> str:
    if not USERNAME.match(username):
        raise OAuthError(
            "invalid_request", "username: letters, digits and _.@-, beginning with a letter or digit"
        )
    if not secrets.compare_digest(password.encode(), settings.iam_user_password.get_secret_value().encode()):
        raise OAuthError("invalid_grant", "Wrong password")
    return username
