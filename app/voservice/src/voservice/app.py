"""The application factory: what all services have in common."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from voservice import docs, metrics, tracing
from voservice.access import AccessLog
from voservice.browsers import Refuse
from voservice.config import ServiceSettings
from voservice.middleware import CallerHeaders, protect
from voservice.responses import text

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def service(
    settings: ServiceSettings,
    *,
    title: str,
    refuse: Refuse,
    description: str = "",
    prefix: str = "",
    lifespan: Lifespan | None = None,
    largest_body: int | None = None,
    quiet: Collection[str] = (),
    caller_headers: bool = False,
    redirect_slashes: bool = False,
) -> FastAPI:
    """Create an application with the protections, access log, metrics and page at *prefix*/docs of every service.

    *refuse* creates the response to requests that the protections reject; *largest_body* is in bytes. Successful
    requests for the paths *quiet*, below *prefix*, are not logged, and none is traced. With *caller_headers*,
    responses contain the user as whom the caller is authenticated, as those of OpenCADC's services do. What
    ``state.collectors`` of the application return is told by ``/metrics`` too.
    """
    app = FastAPI(
        title=title,
        description=description,
        lifespan=lifespan,
        docs_url=None,
        openapi_url=f"{prefix}/openapi.json",
        redoc_url=None,
        redirect_slashes=redirect_slashes,
    )
    protect(app, settings, refuse, largest_body)
    quiet = (*(prefix + path for path in quiet), metrics.PATH)
    app.add_middleware(AccessLog, quiet=quiet)
    tracing.install(app, quiet)
    if caller_headers:
        app.add_middleware(CallerHeaders)
    # Before routes that match any path.
    docs.install(app, prefix)
    app.state.collectors = metrics.install(app)
    return app


class Methods:
    """Adds routers to an application below a prefix, and knows the methods of each path.

    For the header `Allow` (RFC 9110 section 15.5.6): several routes may share a path, but the framework's router
    reports only one of them.
    """

    def __init__(self, app: FastAPI, prefix: str = "") -> None:
        """Add to *app*, below *prefix*."""
        self._app = app
        self._prefix = prefix
        self._known: list[tuple[re.Pattern[str], frozenset[str]]] = []

    def include(self, *routers: APIRouter) -> None:
        """Add the routes of *routers*."""
        for router in routers:
            self._app.include_router(router, prefix=self._prefix)
            for route in router.routes:
                path, methods = getattr(route, "path", None), getattr(route, "methods", None)
                if path is not None and methods:
                    self._known.append((compile_path(self._prefix + path)[0], frozenset(methods)))

    def of(self, path: str) -> list[str]:
        """Return the methods of a decoded path, in alphabetical order."""
        found = (methods for pattern, methods in self._known if pattern.match(path))
        return sorted(frozenset().union(*found))

    def answer_in_text(self, missing: str | None = None) -> None:
        """Return the framework's own errors as a line of text; *missing* is the text for a path that does not exist."""

        @self._app.exception_handler(HTTPException)
        async def respond(request: Request, error: HTTPException) -> Response:
            if error.status_code == 405:
                allowed = {"Allow": ", ".join(self.of(request.url.path))}
                return text(f"unsupported: HTTP {request.method}\n", 405, allowed)
            detail = missing if missing and error.status_code == 404 else error.detail
            return text(f"{detail}\n", error.status_code, error.headers)
