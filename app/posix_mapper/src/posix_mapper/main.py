"""The POSIX mapper's application: ``/uid`` and ``/gid`` as OpenCADC's service answers them, and VOSI."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.routing import Route
from voservice import database, docs, openapi, vosi
from voservice.auth import USERNAME, AuthenticationError, Identity, TokenVerifier, bearer
from voservice.config import load
from voservice.levels import Levels
from voservice.logging import AccessLog, bind, configure
from voservice.middleware import CallerHeaders, protect
from voservice.proxy import client_address
from voservice.responses import text as plain
from voservice.responses import xml

from posix_mapper.config import PosixMapperSettings
from posix_mapper.models import LARGEST, InvalidGroup, PosixGroup, PosixUser, group_uri
from posix_mapper.storage import MappingStore

TSV = "text/tab-separated-values"
STANDARD = "http://www.opencadc.org/std/posix"
MOST_DIGITS = 20
CHECK_SECONDS = 5
LARGEST_BODY = 64 << 10
LEVELS_SECONDS = 10.0
"""Until a level that was set in one process is known in all."""
TRACKED = ("posix_mapper", "voservice")
"""Loggers whose levels are listed in any case."""

_LINES = {200: openapi.answer("An entry a line", "text/plain", TSV)}
_NUMBER = {"type": "integer", "minimum": 0, "maximum": LARGEST}
OPERATIONS = {
    "GET /uid": openapi.Operation(
        _LINES,
        [
            openapi.parameter("user", "User names, any number of them", openapi.many(openapi.STRING)),
            openapi.parameter("uid", "Numbers of users", openapi.many(_NUMBER)),
        ],
    ),
    "GET /gid": openapi.Operation(
        _LINES,
        [
            openapi.parameter("group", "URIs of groups, any number of them", openapi.many(openapi.STRING)),
            openapi.parameter("gid", "Numbers of groups", openapi.many(_NUMBER)),
        ],
    ),
    "GET /logControl": openapi.Operation(
        {200: openapi.answer("A logger and its level a line", "text/plain")}
    ),
    "POST /logControl": openapi.Operation(
        {303: openapi.answer("To the levels")}, body=openapi.form(level="DEBUG, INFO, …", package="A logger")
    ),
    "GET /availability": openapi.Operation(openapi.AVAILABILITY, [openapi.DETAIL]),
    "GET /capabilities": openapi.Operation(openapi.CAPABILITIES),
}
"""What is read from the request itself, where FastAPI does not see it."""

logger = logging.getLogger(__name__)


class BadParameter(ValueError):
    """A parameter that cannot be read."""


def number(name: str, text: str) -> int:
    """Read the uid or gid in *text*."""
    if not text.isdecimal() or len(text) > MOST_DIGITS or int(text) > LARGEST:
        raise BadParameter(f"{name}: {text!r} is not a number from 0 to {LARGEST}")
    return int(text)


def form(body: bytes) -> list[tuple[str, str]]:
    """Fields of an urlencoded form; raises ``BadParameter``."""
    try:
        return parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=1000)
    except ValueError:
        raise BadParameter("the form cannot be read: it must be urlencoded UTF-8") from None


async def keep_levels(store: MappingStore, levels: Levels) -> None:
    """Take over what operators set in other processes."""
    while True:
        try:
            levels.apply(await store.log_levels())
        except database.AWAY as exc:
            logger.warning("Levels of logs cannot be read: %s", exc)
        await asyncio.sleep(LEVELS_SECONDS)


def create_app() -> FastAPI:
    """Build the application from the environment."""
    settings = load(PosixMapperSettings)
    configure("posix-mapper", settings.log_level)
    engine = database.engine(settings)
    store = MappingStore(engine)
    client = httpx.AsyncClient(timeout=10)
    verifier = TokenVerifier.of(settings, client)
    base = settings.posix_mapper_context_path
    public = settings.public_url + base

    levels = Levels(TRACKED)
    administrators = settings.posix_mapper_reserved_users.keys()
    operators = set(settings.posix_mapper_operators)
    registrars = set(settings.posix_mapper_registrars)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for name, uid in settings.posix_mapper_reserved_users.items():
            await store.reserve(name, uid)
        listening = asyncio.create_task(keep_levels(store, levels))
        yield
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await client.aclose()
        await engine.dispose()

    app = FastAPI(
        title="POSIX mapper",
        description="Gives users and groups the uid and gid under which they own files.",
        lifespan=lifespan,
        docs_url=None,
        openapi_url=f"{base}/openapi.json",
        redoc_url=None,
    )
    app.router.redirect_slashes = False
    protect(app, settings, lambda status, reason: plain(f"{reason}\n", status), LARGEST_BODY)
    app.add_middleware(AccessLog, quiet=(f"{base}/availability",))
    app.add_middleware(CallerHeaders)
    docs.install(app, base)

    async def caller(request: Request) -> Identity:
        token = bearer(request.headers.getlist("authorization"))
        if token is None:
            raise AuthenticationError("Caller is not authenticated.", "")
        identity = await verifier.verify(token)
        request.state.caller = identity
        bind(user=identity.username)
        return identity

    def parameters(request: Request, *names: str) -> list[list[str]]:
        items = request.query_params.multi_items()
        return [[value for key, value in items if key.lower() == name] for name in names]

    async def operator(request: Request) -> str:
        """Name of the caller, who must be an operator."""
        if bearer(request.headers.getlist("authorization")) is not None:
            identity = await caller(request)
            named = operators & {identity.username, *identity.groups}
            # A group of an administrator's name makes nobody one.
            if named or identity.username in administrators:
                return identity.username
        raise HTTPException(403, "permission denied")

    def may_register(identity: Identity) -> bool:
        """Whether names that the caller asks for get numbers: such a row stays for ever, and all can read it."""
        client = identity.claims.get("client_id", identity.claims.get("azp"))
        return identity.username in administrators or "any" in registrars or client in registrars

    async def answer(
        request: Request,
        everything: Callable[[], AsyncIterator[PosixUser] | AsyncIterator[PosixGroup]],
        some: Callable[[], Awaitable[list[PosixUser] | list[PosixGroup]]] | None,
    ) -> Response:
        tsv = request.headers.get("accept") == TSV
        kind = TSV if tsv else "text/plain"
        headers = {"Content-Type": kind}
        if some is not None:
            body = "".join(entry.tsv() if tsv else entry.text() for entry in await some())
            return Response(body, headers=headers)

        async def lines() -> AsyncIterator[str]:
            async for entry in everything():
                yield entry.tsv() if tsv else entry.text()

        return StreamingResponse(lines(), headers=headers)

    @app.get(f"{base}/uid", summary="Users and their numbers")
    async def uid(request: Request) -> Response:
        """Users by ``user`` and ``uid``, or all of them; unknown ones are left out.

        A user who is asked for by name gets a number if that is the caller, or the caller may register others."""
        identity = await caller(request)
        names, uids = parameters(request, "user", "uid")
        for name in names:
            if not USERNAME.match(name):
                raise BadParameter(f"user: {name!r} is not a user name: letters, digits and _.@-")
        numbers = [number("uid", text) for text in uids]
        new = names if may_register(identity) else [name for name in names if name == identity.username]
        return await answer(
            request,
            store.all_users,
            (lambda: store.users(names, numbers, new)) if names or uids else None,
        )

    @app.get(f"{base}/gid", summary="Groups and their numbers")
    async def gid(request: Request) -> Response:
        """Groups by ``group`` and ``gid``, or all of them; unknown ones are left out.

        A group that is asked for by name gets a number if the caller may register names."""
        identity = await caller(request)
        uris, gids = parameters(request, "group", "gid")
        wanted = [group_uri(uri) for uri in uris]
        numbers = [number("gid", text) for text in gids]
        new = wanted if may_register(identity) else []
        return await answer(
            request,
            store.all_groups,
            (lambda: store.groups(wanted, numbers, new)) if uris or gids else None,
        )

    @app.get(f"{base}/logControl", summary="Levels of logs: a logger and its level a line")
    async def get_levels(request: Request) -> Response:
        """Levels as they are in this process, those included that another has just set."""
        await operator(request)
        levels.apply(await store.log_levels())
        return plain(levels.text())

    @app.post(f"{base}/logControl", summary="Set the level of each package given, or of all")
    async def set_levels(request: Request) -> Response:
        """``level`` in the words of log4j, ``package`` any number of times; in the query or a form."""
        who = await operator(request)
        items = [*request.query_params.multi_items(), *form(await request.body())]
        given = [value for key, value in items if key.lower() == "level"]
        packages = [value for key, value in items if key.lower() == "package"]
        try:
            wanted = levels.check(given[0] if given else None, packages)
        except ValueError as exc:
            raise BadParameter(str(exc)) from None
        await store.set_log_levels(wanted, who)
        levels.apply(wanted)
        logger.warning("levels are set, by %s: %s", who, wanted)
        return Response(status_code=303, headers={"Location": f"{public}/logControl"})

    @app.head(f"{base}/availability", include_in_schema=False)
    @app.get(f"{base}/availability", summary="Whether the service and its database answer")
    async def availability(request: Request) -> Response:
        """VOSI availability; with ``detail=min`` only a status, 200 or 503."""
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await store.check()
            available, note = True, "service is accepting requests"
        except (SQLAlchemyError, OSError) as exc:  # TimeoutError is an OSError
            logger.warning("The database does not answer: %s", exc)
            available, note = False, f"the database does not answer: {type(exc).__name__}"
        if parameters(request, "detail") == [["min"]]:
            return Response(status_code=200 if available else 503)
        return xml(vosi.availability(available, note, client_address(request)))

    @app.head(f"{base}/capabilities", include_in_schema=False)
    @app.get(f"{base}/capabilities", summary="What the service offers and where")
    async def capabilities() -> Response:
        """VOSI capabilities."""
        anonymous = (vosi.ANONYMOUS,)
        entries = [
            # For the anonymous too, who are refused: OpenCADC's Cavern looks both up before it has a caller.
            vosi.Capability(f"{STANDARD}#user-mapping-0.1", f"{public}/uid", "base"),
            vosi.Capability(f"{STANDARD}#group-mapping-0.1", f"{public}/gid", "base"),
            vosi.Capability(
                "ivo://ivoa.net/std/VOSI#availability", f"{public}/availability", methods=anonymous
            ),
            vosi.Capability(
                "ivo://ivoa.net/std/VOSI#capabilities", f"{public}/capabilities", methods=anonymous
            ),
            vosi.Capability(
                "vos://cadc.nrc.ca~vospace/CADC/std/LOGGING#logControl-1.0",
                f"{public}/logControl",
                methods=(vosi.TOKEN,),
            ),
        ]
        return xml(vosi.capabilities(entries))

    openapi.complete(
        app,
        prefix=base,
        schemes={"token": openapi.TOKEN},
        callers=("token",),
        others={"/availability": (None,), "/capabilities": (None,)},
        error=openapi.LINE,
        operations=OPERATIONS,
    )

    @app.exception_handler(AuthenticationError)
    async def unauthorized(_: Request, exc: AuthenticationError) -> Response:
        return plain(exc.description, exc.status, exc.headers)

    database.answer_while_away(
        app, lambda: plain("The database does not answer\n", 503, {"Retry-After": "10"})
    )

    @app.exception_handler(BadParameter)
    @app.exception_handler(InvalidGroup)
    async def bad(_: Request, exc: Exception) -> Response:
        return plain(f"{exc}\n", 400)

    @app.exception_handler(HTTPException)
    async def other(request: Request, exc: HTTPException) -> Response:
        text = {404: "not found", 405: f"unsupported: HTTP {request.method}"}.get(exc.status_code, exc.detail)
        headers = dict(exc.headers or {})
        if exc.status_code == 405:
            path = request.url.path
            known = (route for route in app.routes if isinstance(route, Route) and route.path == path)
            headers["Allow"] = ", ".join(sorted({name for route in known for name in route.methods or ()}))
        return plain(f"{text}\n", exc.status_code, headers)

    return app
