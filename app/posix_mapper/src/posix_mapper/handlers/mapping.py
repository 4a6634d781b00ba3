"""``/uid`` and ``/gid``: users and groups with their uid and gid, as lines of text or tab-separated values."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from voservice import openapi

from posix_mapper.dependencies import Caller, Shared, parameters
from posix_mapper.models.entries import LARGEST, PosixGroup, PosixUser

STANDARD = "http://www.opencadc.org/std/posix"
TSV = "text/tab-separated-values"

_LINES = {200: openapi.answer("An entry a line", "text/plain", TSV)}
_NUMBER = {"type": "integer", "minimum": 0, "maximum": LARGEST}
OPERATIONS = {
    "GET /uid": openapi.Operation(
        _LINES,
        [
            openapi.parameter("user", "User names, any number of them", openapi.many(openapi.STRING)),
            openapi.parameter("uid", "uids of users", openapi.many(_NUMBER)),
        ],
    ),
    "GET /gid": openapi.Operation(
        _LINES,
        [
            openapi.parameter("group", "URIs of groups, any number of them", openapi.many(openapi.STRING)),
            openapi.parameter("gid", "gids of groups", openapi.many(_NUMBER)),
        ],
    ),
}
"""Descriptions of what handlers read from the request themselves, unseen by FastAPI."""

router = APIRouter()


@router.get("/uid", summary="Users and their uids")
async def uid(request: Request, shared: Shared, caller: Caller) -> Response:
    """Users by ``user`` and ``uid``, or all of them; unknown ones are left out.

    A user who is queried by name gets a uid if it is the caller, or if the caller may register others.
    """
    names, uids = parameters(request, "user", "uid")
    if names or uids:
        return _some(request, await shared.mapping.users(caller, names, uids))
    return _all(request, shared.mapping.all_users())


@router.get("/gid", summary="Groups and their gids")
async def gid(request: Request, shared: Shared, caller: Caller) -> Response:
    """Groups by ``group`` and ``gid``, or all of them; unknown ones are left out.

    A group that is queried by name gets a gid if the caller may register names.
    """
    uris, gids = parameters(request, "group", "gid")
    if uris or gids:
        return _some(request, await shared.mapping.groups(caller, uris, gids))
    return _all(request, shared.mapping.all_groups())


def _some(request: Request, entries: Sequence[PosixUser | PosixGroup]) -> Response:
    tsv = _wants_tsv(request)
    return Response("".join(_line(entry, tsv=tsv) for entry in entries), headers=_kind(tsv=tsv))


def _all(request: Request, entries: AsyncIterator[PosixUser] | AsyncIterator[PosixGroup]) -> Response:
    tsv = _wants_tsv(request)

    async def lines() -> AsyncIterator[str]:
        async for entry in entries:
            yield _line(entry, tsv=tsv)

    return StreamingResponse(lines(), headers=_kind(tsv=tsv))


def _wants_tsv(request: Request) -> bool:
    return request.headers.get("accept") == TSV


def _kind(*, tsv: bool) -> dict[str, str]:
    return {"Content-Type": TSV if tsv else "text/plain"}


def _line(entry: PosixUser | PosixGroup, *, tsv: bool) -> str:
    return entry.tsv() if tsv else entry.text()
