"""The group service (IVOA GMS 1.0)."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from voservice.responses import text

from iam.dependencies import Claims, Shared

STANDARD = "ivo://ivoa.net/std/GMS#search-1.0"

router = APIRouter()


@router.get("/gms/search")
async def search(request: Request, shared: Shared, claims: Claims) -> Response:
    """Groups of the caller, one a line (GMS 1.0); ``group`` asks for some of them only.

    A service that may read all groups queries those of a user with ``user``, if the user authenticated with a
    certificate and it therefore has no token of the user.
    """
    user = request.query_params.get("user")
    if user is not None and not shared.directory.reads_groups(claims.get("client_id", "")):
        return text("permission denied: user\n", 403)
    member = shared.directory.groups(user or claims["preferred_username"])
    asked = request.query_params.getlist("group")
    names = [name for name in member if not asked or name in asked]
    headers = {"X-VO-Authenticated": claims["preferred_username"]}
    return text("".join(f"{name}\n" for name in names), headers=headers)
