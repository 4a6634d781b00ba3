"""The issuer's application."""

from __future__ import annotations

from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from voservice import openapi, tracing, vosi
from voservice.app import service
from voservice.auth import AuthenticationError
from voservice.config import load
from voservice.logging import configure
from voservice.pages import LOOKS, Assets, Pages
from voservice.responses import text

from iam.config import IamSettings
from iam.dependencies import Context
from iam.handlers import authorize, discovery, groups, tokens
from iam.models.directory import Directory
from iam.models.errors import OAuthError
from iam.services.attempts import Attempts
from iam.services.authorizations import Authorizations
from iam.services.grants import Grants
from iam.services.metrics import REFUSED
from iam.services.signer import Signer

LARGEST_BODY = 64 << 10
WRONG_CODES = 20
"""Wrong sign-in codes a minute from one address."""
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
    "GET /gms/availability": openapi.Operation(openapi.AVAILABILITY, [openapi.DETAIL]),
    "GET /gms/capabilities": openapi.Operation(openapi.CAPABILITIES),
}
"""Descriptions of what handlers read from the request themselves, unseen by FastAPI."""


def create_app() -> FastAPI:
    """Build the application from its settings."""
    settings = load(IamSettings)
    configure("iam", settings.log_level)
    tracing.configure("iam", settings)
    directory = Directory.read(settings.iam_clients_file)
    signer = Signer(settings.oidc_issuer, settings.iam_signing_key.get_secret_value())
    issuer = settings.oidc_issuer.rstrip("/")
    base = urlsplit(issuer).path
    app = service(
        settings,
        title="Issuer for development",
        description="OpenID Connect issuer and group service. It trusts whoever holds the deployment's secrets.",
        prefix=base,
        refuse=lambda status, reason: text(f"{reason}\n", status),
        largest_body=LARGEST_BODY,
        quiet=("/health",),
        redirect_slashes=True,
    )
    authorizations = Authorizations(settings.iam_session_lifetime)
    assets = Assets(LOOKS)
    app.state.context = Context(
        settings=settings,
        directory=directory,
        signer=signer,
        grants=Grants(settings, directory, signer, authorizations),
        authorizations=authorizations,
        attempts=Attempts(WRONG_CODES),
        pages=Pages("iam", assets, issuer),
    )
    gms = f"{issuer}/gms"
    for router in (discovery.router, tokens.router, groups.router, authorize.router, assets.router()):
        app.include_router(router, prefix=base)
    app.include_router(
        vosi.router(
            [
                vosi.Capability(groups.STANDARD, f"{gms}/search", methods=(vosi.TOKEN,)),
                *vosi.own_capabilities(gms),
            ],
            note="accepting requests",
        ),
        prefix=f"{base}/gms",
    )
    openapi.complete(
        app,
        prefix=base,
        schemes={"token": openapi.TOKEN, "client": openapi.CLIENT},
        callers=(None,),
        others={
            **dict.fromkeys(("/token", "/introspect", "/revoke", "/sign-in-codes"), ("client", None)),
            **dict.fromkeys(("/userinfo", "/gms/search"), ("token",)),
        },
        error=ERROR,
        operations=OPERATIONS,
    )
    _install_errors(app)
    return app


def _install_errors(app: FastAPI) -> None:
    @app.exception_handler(OAuthError)
    async def refuse(_: Request, error: OAuthError) -> Response:
        REFUSED.labels(error.error).inc()
        headers = {"Cache-Control": "no-store"}
        if error.status == 401:
            headers["WWW-Authenticate"] = 'Basic realm="iam"'
        body = {"error": error.error, "error_description": error.description}
        return JSONResponse(body, error.status, headers)

    @app.exception_handler(AuthenticationError)
    async def challenge(_: Request, error: AuthenticationError) -> Response:
        return text(error.description + "\n", error.status, error.headers)
