"""Errors as problem documents (RFC 9457)."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from voservice.auth.errors import AuthenticationError

LONGEST_TEXT = 1000


class Problem(Exception):
    """An error that the caller can act on; one handler turns it into a response."""

    status = 400
    title = "Bad request"

    def __init__(self, detail: str, *, headers: dict[str, str] | None = None, **members: Any) -> None:
        """State the error and its remedy in *detail*; *members* are further members of the document."""
        super().__init__(detail)
        self.detail = detail
        self.headers = headers or {}
        self.members = members


class Unauthorized(Problem):
    """The caller is not authenticated."""

    status, title = 401, "Not authenticated"


class Forbidden(Problem):
    """The caller is not authorised."""

    status, title = 403, "Not permitted"


class NotFound(Problem):
    """The resource does not exist, or not for this caller."""

    status, title = 404, "Not found"


class Conflict(Problem):
    """The state of the resource does not allow the request."""

    status, title = 409, "Conflict"


class TooLarge(Problem):
    """The request is larger than a limit."""

    status, title = 413, "Too large"


class UnsupportedMediaType(Problem):
    """The body has a content type that is not accepted."""

    status, title = 415, "Unsupported media type"


class Invalid(Problem):
    """The request is invalid; ``pointer`` locates the error."""

    status, title = 422, "Invalid request"


class TooMany(Problem):
    """The caller exceeds a rate limit or quota."""

    status, title = 429, "Too many requests"


class Unavailable(Problem):
    """A dependency of this service is unavailable."""

    status, title = 503, "Temporarily unavailable"


def _short(value: Any) -> Any:
    """Shorten what a problem document quotes of a request, which may be of any length."""
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return f"{value[:LONGEST_TEXT]}…"
    if isinstance(value, dict):
        return {name: _short(inner) for name, inner in value.items()}
    return [_short(inner) for inner in value] if isinstance(value, list) else value


def document(
    status: int, title: str, detail: str, headers: dict[str, str] | None = None, **members: Any
) -> JSONResponse:
    """Render a problem document."""
    body = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": _short(detail),
        **_short(members),
    }
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def install(app: FastAPI) -> None:
    """Respond to every error of *app* with a problem document."""

    @app.exception_handler(Problem)
    async def problem(_: Request, exc: Problem) -> JSONResponse:
        return document(exc.status, exc.title, exc.detail, exc.headers, **exc.members)

    @app.exception_handler(RequestValidationError)
    async def validation(_: Request, exc: RequestValidationError) -> JSONResponse:
        errors = [{"pointer": "/" + "/".join(map(str, e["loc"])), "detail": e["msg"]} for e in exc.errors()]
        first = errors[0]
        return document(422, "Invalid request", f"{first['pointer']}: {first['detail']}", errors=errors)

    @app.exception_handler(AuthenticationError)
    async def authentication(_: Request, exc: AuthenticationError) -> JSONResponse:
        kind = Unavailable if exc.status == Unavailable.status else Unauthorized
        return document(kind.status, kind.title, exc.description, exc.headers)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, _: Exception) -> JSONResponse:
        request_id = getattr(request.state, "request_id", "")
        detail = f"The service failed; its log tells why under request_id {request_id}"
        return document(500, "Internal error", detail, {"X-Request-ID": request_id})

    @app.exception_handler(HTTPException)
    async def http(_: Request, exc: HTTPException) -> JSONResponse:
        return document(exc.status_code, str(exc.detail), str(exc.detail), dict(exc.headers or {}))
