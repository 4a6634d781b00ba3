"""Who uses the page: a session becomes the caller that the API knows, and changes come from the page alone."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import Depends, Request, Response
from voservice.auth import AuthenticationError, IssuerUnavailable
from voservice.browsers import is_of, origin
from voservice.logging import bind
from voservice.pages import Pages
from voservice.problems import Forbidden, Invalid, NotFound, UnsupportedMediaType

from preparer.api.context import Caller, context
from preparer.api.v1 import event_stream
from preparer.ui.sessions import Sessions
from preparer.ui.sign_in import SignIn

# A name with this prefix is taken by browsers from this host alone, for all of it, and over TLS (RFC 6265bis).
SESSION = "__Host-prepare-data"
ATTEMPT = "__Host-prepare-data-sign-in"
AHEAD = 60
"""Seconds before their end at which tokens are renewed."""
MOST_FIELDS = 200


class SignedOut(Exception):
    """There is no session, or it has ended."""


@dataclass(frozen=True)
class Page:
    """The parts of the page in one process."""

    pages: Pages
    sign_in: SignIn
    sessions: Sessions
    url: str
    """Public URL of the page, without a trailing slash."""
    base: str
    """Its path."""


def page(request: Request) -> Page:
    """Return the process's page."""
    found: Any = request.app.state.page
    assert isinstance(found, Page)
    return found


async def visitor(request: Request) -> Caller:
    """Return the user who has signed in. Raises `SignedOut`, or `IssuerUnavailable`."""
    secret = request.cookies.get(SESSION)
    if not secret:
        raise SignedOut
    own, shared = page(request), context(request)
    tokens = found = await own.sessions.find(secret)
    if found is not None and found.expires - AHEAD < time.time():
        try:
            tokens = await own.sessions.renew(secret, found, own.sign_in.refresh)
        except IssuerUnavailable:
            if found.expires <= time.time():
                raise
    if tokens is None:
        raise SignedOut
    try:
        identity = await shared.verifier.verify(tokens.access)
    except IssuerUnavailable:
        raise
    except AuthenticationError as exc:
        await own.sessions.end(secret)
        raise SignedOut from exc
    bind(user=identity.username)
    return Caller(
        identity, tokens.access, bool(identity.groups & set(shared.settings.preparer_operator_groups))
    )


Visitor = Annotated[Caller, Depends(visitor)]


async def operator(who: Visitor) -> Caller:
    """Return the user if they are an operator; for others there is nothing to see."""
    if not who.operator:
        raise NotFound("There is no such page")
    return who


Operator = Annotated[Caller, Depends(operator)]


async def own_page(request: Request) -> None:
    """Refuse a change that the page itself does not ask for: browsers state where a request comes from."""
    site = request.headers.get("sec-fetch-site")
    source = request.headers.get("origin")
    if site is None and source is None:
        raise Forbidden("The request does not say which page it comes from; use a current browser")
    own = origin(context(request).settings.public_url)
    if site not in (None, "same-origin") or (source is not None and origin(source) != own):
        raise Forbidden("The request comes from another page")


async def following(request: Request, who: Visitor) -> AsyncIterator[None]:
    """Count the user's open event streams, with those of the API."""
    async for _ in event_stream(request, who):
        yield


async def form(request: Request, who: Visitor) -> dict[str, str]:
    """Return the fields of a form of the page; each counts against the user's rate limit."""
    await own_page(request)
    shared = context(request)
    shared.limit(who.identity.username)
    kind = request.headers.get("content-type", "")
    if not is_of(kind, "application/x-www-form-urlencoded"):
        raise UnsupportedMediaType("A form of the page is application/x-www-form-urlencoded")
    body = await shared.arrivals.read(request, who.identity.username, shared.settings.preparer_max_body)
    try:
        return dict(
            parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict")
        )
    except ValueError as exc:
        raise Invalid("The form cannot be read") from exc


Form = Annotated[dict[str, str], Depends(form)]


def keep(response: Response, name: str, value: str, age: int) -> None:
    """Set a cookie that scripts cannot read, and that is not sent with what pages of other sites ask for."""
    response.set_cookie(name, value, max_age=age, path="/", secure=True, httponly=True, samesite="lax")


def drop(response: Response, name: str) -> None:
    """Remove a cookie."""
    response.delete_cookie(name, path="/", secure=True, httponly=True, samesite="lax")
