"""The page as an application below the API's, with the same state and its own way to tell of errors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import quote, urlencode

import httpx
from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.exceptions import HTTPException
from voservice import database, problems
from voservice.auth import AuthenticationError, TokenVerifier
from voservice.pages import LOOKS, Assets, Pages
from voservice.problems import Problem
from vospace_client.client import CavernError

from preparer.config import PreparerSettings
from preparer.ui import operators, space, tasks
from preparer.ui.access import ATTEMPT, SESSION, Form, Page, SignedOut, Visitor, drop, keep, page
from preparer.ui.refusals import refusal
from preparer.ui.sessions import Sessions
from preparer.ui.sign_in import PATIENCE, SignIn, SignInFailed

entrance = APIRouter()
PATH = "/ui"
ASSETS = Assets(LOOKS, Path(__file__).parent / "assets")
TITLES = {404: "There is nothing here", 403: "Not permitted", 503: "Not available at the moment"}


def create(
    settings: PreparerSettings, engine: AsyncEngine, verifier: TokenVerifier, client: httpx.AsyncClient
) -> Page:
    """Return the parts of the page."""
    base = f"{settings.api_root_path}{PATH}"
    url = f"{settings.public_url}{base}"
    pages = Pages("preparer.ui", ASSETS, url)
    pages.environment.globals["base"] = base
    pages.environment.filters["place"] = quote
    return Page(pages, SignIn(settings, verifier, client, url), Sessions(settings, engine), url, base)


def install(app: FastAPI, settings: PreparerSettings) -> None:
    """Serve the page at /ui/ if it has an OAuth client; else there is nothing."""

    async def nothing(_: Request) -> Response:
        return problems.document(
            404, "Not found", "This site has no page: preparer_page_client_id is not set"
        )

    async def begin(request: Request) -> Response:
        return RedirectResponse(f"{page(request).base}/", 308)

    if not settings.preparer_page_client_id:
        for path in (PATH, f"{PATH}/{{rest:path}}"):
            app.add_route(path, nothing, include_in_schema=False)
        return
    # The worker, which has the same settings, is not given it.
    if not settings.preparer_page_client_secret.get_secret_value():
        raise SystemExit("preparer_page_client_secret: needed with preparer_page_client_id")
    own = FastAPI(title="prepare-data page", docs_url=None, redoc_url=None, openapi_url=None)
    own.state = app.state
    for router in (ASSETS.router(), entrance, tasks.router, space.router, operators.router):
        own.include_router(router)
    _install_errors(own)
    app.add_route(PATH, begin, include_in_schema=False)
    app.mount(PATH, own)


@entrance.get("/")
async def welcome(request: Request, next: Annotated[str, Query(max_length=2000)] = "/tasks") -> Response:
    """Show what the page is for, and the way in."""
    if SESSION in request.cookies:
        return RedirectResponse(f"{page(request).base}/tasks", 303)
    return _welcome(request, next)


def _welcome(request: Request, place: str, error: str | None = None, status: int = 200) -> Response:
    query = urlencode({"next": place})
    return page(request).pages.render("welcome.html", status, who=None, query=query, error=error)


@entrance.get("/sign-in")
async def leave(request: Request, next: Annotated[str, Query(max_length=2000)] = "/tasks") -> Response:
    """Send the user to the issuer."""
    leaving = await page(request).sign_in.leave(next)
    response = RedirectResponse(leaving.url, 303, {"Cache-Control": "no-store"})
    keep(response, ATTEMPT, leaving.cookie, PATIENCE)
    return response


@entrance.get("/signed-in")
async def arrive(request: Request) -> Response:
    """Begin the session of a user whom the issuer has sent back."""
    own = page(request)
    pairs = request.query_params.multi_items()
    answer = dict(pairs)
    if len(answer) < len(pairs):
        raise SignInFailed("The issuer's answer has a parameter twice. Sign in again.")
    identity, tokens, place = await own.sign_in.arrive(request.cookies.get(ATTEMPT), answer)
    secret = await own.sessions.begin(identity.username, tokens, request.cookies.get(SESSION))
    response = RedirectResponse(f"{own.base}{place}", 303, {"Cache-Control": "no-store"})
    drop(response, ATTEMPT)
    keep(response, SESSION, secret, own.sessions.age)
    return response


@entrance.post("/sign-out")
async def sign_out(request: Request, _: Visitor, __: Form) -> Response:
    """End the session, here and at the issuer."""
    own = page(request)
    tokens = await own.sessions.end(request.cookies[SESSION])
    if tokens is not None:
        await own.sign_in.revoke(tokens)
    response = RedirectResponse(f"{own.base}/", 303, {"Clear-Site-Data": '"cache"'})
    drop(response, SESSION)
    return response


def _install_errors(app: FastAPI) -> None:
    """Answer errors with a page, or with a problem document what is not shown as one."""

    def tell(request: Request, status: int, title: str, detail: str, headers: dict[str, str]) -> Response:
        if "text/html" not in request.headers.get("accept", ""):
            return problems.document(status, title, detail, headers)
        return page(request).pages.render(
            "error.html",
            status,
            headers=headers,
            who=None,
            title=TITLES.get(status, title),
            detail=detail,
        )

    @app.exception_handler(SignedOut)
    async def signed_out(request: Request, _: SignedOut) -> Response:
        """Let the user sign in, and come back to where they were."""
        own = page(request)
        if "text/html" not in request.headers.get("accept", ""):
            response: Response = problems.document(401, "Signed out", "You are signed out; sign in again")
        else:
            place = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
            place = place if request.method == "GET" else "/tasks"
            response = RedirectResponse(f"{own.base}/?{urlencode({'next': place})}", 303)
        response.headers["Cache-Control"] = "no-store"
        drop(response, SESSION)
        return response

    @app.exception_handler(SignInFailed)
    async def failed(request: Request, exc: SignInFailed) -> Response:
        response = _welcome(request, "/tasks", str(exc), 403)
        drop(response, ATTEMPT)
        return response

    @app.exception_handler(Problem)
    async def problem(request: Request, exc: Problem) -> Response:
        return tell(request, exc.status, exc.title, exc.detail, exc.headers)

    @app.exception_handler(CavernError)
    async def cavern(request: Request, exc: CavernError) -> Response:
        found = refusal(exc)
        return tell(request, found.status, found.title, found.detail, found.headers)

    @app.exception_handler(AuthenticationError)
    async def authentication(request: Request, exc: AuthenticationError) -> Response:
        return tell(request, 503, "Not available at the moment", exc.description, {"Retry-After": "10"})

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, exc: RequestValidationError) -> Response:
        first = exc.errors()[0]
        detail = f"{'/'.join(map(str, first['loc']))}: {first['msg']}"
        return tell(request, 422, "Invalid request", detail, {})

    @app.exception_handler(HTTPException)
    async def http(request: Request, exc: HTTPException) -> Response:
        return tell(request, exc.status_code, str(exc.detail), str(exc.detail), dict(exc.headers or {}))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, _: Exception) -> Response:
        number = getattr(request.state, "request_id", "")
        return tell(request, 500, "Internal error", f"The log tells why under request_id {number}", {})

    def unavailable() -> Response:
        detail = "The ledger does not answer; nothing was changed, try again"
        return problems.document(503, "Temporarily unavailable", detail, {"Retry-After": "5"})

    database.respond_when_unavailable(app, unavailable)
