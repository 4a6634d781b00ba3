"""Stand-in for the registry: two files as they are, read anew at each request."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from standin.settings import HOME_CONFIG, System
from standin.web import ANONYMOUS, Fault, answer_fault, availability, capabilities

SERVER = {"server": "OpenCADC/cadc-rest"}


def _file(name: str) -> Route:
    async def read(request: Request) -> Response:
        if request.method != "GET":
            raise Fault(405, f"unsupported: HTTP {request.method}", {"Allow": "GET"})
        if "authorization" in request.headers:
            raise Fault(401, "unhandled auth")
        path = HOME_CONFIG / f"reg-{name}.properties"
        if not path.is_file():
            raise Fault(404, "not found: feature not configured")
        return PlainTextResponse(path.read_bytes(), headers=SERVER | {"content-type": "text/plain"})

    return Route(f"/{name}", read, methods=["GET", "HEAD", "POST", "PUT", "DELETE"])


def application(_system: System, public: str, path: str) -> Starlette:
    """The registry below *path*."""

    async def available(_request: Request) -> Response:
        return availability(True, "accepting requests")

    async def capable(_request: Request) -> Response:
        standards = {name: f"ivo://ivoa.net/std/VOSI#{name}" for name in ("capabilities", "availability")}
        return capabilities(
            public + path, {standards[name]: (f"/{name}", "full", ANONYMOUS) for name in standards}
        )

    routes = [
        _file("resource-caps"),
        _file("applications"),
        Route("/availability", available),
        Route("/capabilities", capable),
    ]
    return Starlette(
        routes=[Route(path + route.path, route.endpoint, methods=route.methods) for route in routes],
        exception_handlers={Fault: answer_fault, Exception: answer_fault},
    )
