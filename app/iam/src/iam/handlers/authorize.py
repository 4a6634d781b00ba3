"""The authorization endpoint (RFC 6749 section 4.1, OpenID Connect Core 1.0 section 3.1.2) and its sign-in page.

There is no session at the issuer: users sign in with a one-time code each time that a client asks. So no page of
another site can have them signed in without their doing, and who signs out at a client is signed out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlencode, urlsplit

from fastapi import APIRouter, Form, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from voservice.logging import bind
from voservice.proxy import client_address

from iam.dependencies import Context, OAuthClient, Shared
from iam.models.directory import AUTHORIZATION_CODE, RESOURCE_OWNER
from iam.models.errors import OAuthError
from iam.services.authorizations import CHALLENGE, SIGN_IN_LIFETIME, Asked
from iam.services.grants import SCOPES

router = APIRouter()

FIELDS = (
    *("response_type", "client_id", "redirect_uri", "scope", "state", "nonce"),
    *("code_challenge", "code_challenge_method", "response_mode", "prompt"),
)
LONGEST = 2048
"""Characters of a parameter."""


class _Refused(Exception):
    """The request is wrong, and so may be the place that it wants the user to be sent back to."""


class _Denied(Exception):
    """The request is refused, which the client is told (RFC 6749 section 4.1.2.1)."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.error, self.description = error, description


def _fields(pairs: Sequence[tuple[str, Any]]) -> dict[str, str]:
    """Return the parameters of a request, of which none may come twice (RFC 6749 section 3.1)."""
    found = [(name, value) for name, value in pairs if name in FIELDS]
    for name, count in Counter(name for name, _ in found).items():
        if count > 1:
            raise _Refused(f"{name}: given more than once")
    fields = {name: value for name, value in found if isinstance(value, str)}
    for name, value in fields.items():
        if len(value) > LONGEST:
            raise _Refused(f"{name}: longer than {LONGEST} characters")
    return fields


def _place(shared: Context, fields: dict[str, str]) -> str:
    """Return the redirect_uri if it is one of the client's, character by character (RFC 9700 section 2.1)."""
    client = shared.directory.client(fields.get("client_id", ""))
    if client is None or AUTHORIZATION_CODE not in client.grants:
        raise _Refused("client_id: this issuer knows no such client that users sign in for")
    place = fields.get("redirect_uri", "")
    if place not in client.redirect_uris:
        raise _Refused("redirect_uri: not one that is registered for this client")
    return place


def _asked(fields: dict[str, str]) -> Asked:
    """Return the request, which the client is told is wrong if it is."""
    if fields.get("response_type") != "code":
        raise _Denied("unsupported_response_type", "response_type: must be code")
    if fields.get("response_mode", "query") != "query":
        raise _Denied("invalid_request", "response_mode: must be query")
    if fields.get("code_challenge_method") != "S256" or not CHALLENGE.fullmatch(
        fields.get("code_challenge", "")
    ):
        raise _Denied("invalid_request", "code_challenge: needed, with the code_challenge_method S256")
    if "none" in fields.get("prompt", "").split():
        raise _Denied("login_required", "prompt: users sign in each time")
    words = fields.get("scope", "").split()
    if "openid" not in words:
        raise _Denied("invalid_scope", "scope: must contain openid")
    return Asked(
        client_id=fields["client_id"],
        redirect_uri=fields["redirect_uri"],
        scope=" ".join(word for word in SCOPES if word in words),
        challenge=fields["code_challenge"],
        nonce=fields.get("nonce"),
    )


def _back(shared: Context, place: str, fields: dict[str, str], **answer: str) -> Response:
    """Send the user back to the client, and say whose answer it is (RFC 9207)."""
    told = answer | ({"state": fields["state"]} if "state" in fields else {})
    query = urlencode(told | {"iss": shared.settings.oidc_issuer})
    url = f"{place}{'&' if urlsplit(place).query else '?'}{query}"
    return RedirectResponse(url, 303, {"Cache-Control": "no-store"})


@router.get("/authorize", include_in_schema=False)
async def ask(request: Request, shared: Shared) -> Response:
    """Show the sign-in page for a valid request."""
    return _answer(request, shared, request.query_params.multi_items(), None)


@router.post("/authorize", include_in_schema=False)
async def sign_in(request: Request, shared: Shared) -> Response:
    """Send the user who has a valid sign-in code back to the client with an authorization code."""
    form = await request.form()
    code = form.get("sign_in_code")
    return _answer(request, shared, form.multi_items(), code if isinstance(code, str) else None)


def _answer(
    request: Request, shared: Context, pairs: Sequence[tuple[str, Any]], sign_in_code: str | None
) -> Response:
    try:
        fields = _fields(pairs)
        place = _place(shared, fields)
    except _Refused as exc:
        return shared.pages.render("refused.html", 400, error=str(exc))
    bind(client=fields["client_id"], grant=AUTHORIZATION_CODE)
    try:
        asked = _asked(fields)
    except _Denied as exc:
        return _back(shared, place, fields, error=exc.error, error_description=exc.description)
    if sign_in_code is None:
        return _page(shared, fields)
    address = client_address(request)
    if seconds := shared.attempts.wait(address):
        error = f"Too many wrong codes. Try again in {seconds} s."
        return _page(shared, fields, error, 429, {"Retry-After": str(seconds)})
    username = shared.authorizations.sign_in(sign_in_code)
    if username is None:
        shared.attempts.note(address)
        error = "This code is wrong, was used, or is older than ten minutes. Ask the operator for a new one."
        return _page(shared, fields, error, 403)
    bind(user=username)
    return _back(shared, place, fields, code=shared.authorizations.authorize(username, asked))


def _page(
    shared: Context,
    fields: dict[str, str],
    error: str | None = None,
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:
    parts = urlsplit(fields["redirect_uri"])
    return shared.pages.render(
        "sign_in.html",
        status,
        # A browser checks where the answer to a form leads, too.
        forms=[f"{parts.scheme}://{parts.netloc}"],
        headers=headers,
        action=f"{shared.pages.url}/authorize",
        client=fields["client_id"],
        fields=fields,
        error=error,
    )


@router.post("/sign-in-codes")
async def sign_in_code(
    shared: Shared,
    client: OAuthClient,
    username: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
) -> JSONResponse:
    """Give a client that may act for every user a code with which one of them signs in, once."""
    if RESOURCE_OWNER not in client.grants:
        raise OAuthError("unauthorized_client", f"The client may not use {RESOURCE_OWNER}")
    name = shared.grants.resource_owner(username, password)
    bind(client=client.client_id, user=name)
    body = {"code": shared.authorizations.sign_in_code(name), "expires_in": SIGN_IN_LIFETIME}
    return JSONResponse(body, headers={"Cache-Control": "no-store"})
