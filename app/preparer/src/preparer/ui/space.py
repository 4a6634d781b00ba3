"""The user's space on the page: listed, changed, and shared, in VOSpace and with the user's own token."""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.requests import ClientDisconnect
from voservice.auth import GROUP, AuthenticationError
from voservice.problems import Conflict, Invalid, NotFound, Problem, Unavailable
from vospace_client.client import CavernError
from vospace_client.documents import Node
from vospace_client.terms import (
    CREATOR,
    DATE,
    ENCODING,
    GROUP_READ,
    GROUP_WRITE,
    INHERIT,
    LENGTH,
    PUBLIC,
    QUOTA,
    TYPE,
)

from preparer.api.context import Caller, Context, context
from preparer.areas import Areas, NoAdministrator
from preparer.ui.access import Form, Visitor, own_page, page
from preparer.ui.refusals import refusal
from preparer.ui.shown import size

router = APIRouter()

ENTRIES = 200
"""Nodes on a page of a list."""
LONGEST_NAME = 255
_MEDIA_TYPE = re.compile(
    r"[A-Za-z0-9!#$&^_.+-]{1,100}/[A-Za-z0-9!#$&^_.+-]{1,100}(; ?charset=[A-Za-z0-9-]{1,40})?"
)


def _path(text: str) -> str:
    """Return a path with a slash in front and none at its end. Raises `NotFound` for what is no path of a node."""
    text = text.strip("/")
    if not text:
        return "/"
    if any(part in {"", ".", ".."} for part in text.split("/")):
        raise NotFound("There is nothing of this name")
    return f"/{text}"


def _name(text: str, what: str = "Name") -> str:
    """Return the name of a new node. Raises `Invalid`."""
    name = text.strip()
    if not name or name in {".", ".."} or "/" in name or not name.isprintable():
        raise Invalid(f"{what}: give one without slashes, which is neither . nor ..")
    if len(name.encode()) > LONGEST_NAME:
        raise Invalid(f"{what}: at most {LONGEST_NAME} bytes")
    return name


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def _below(path: str, name: str) -> str:
    return f"{path.rstrip('/')}/{name}"


def _steps(path: str) -> list[tuple[str, str]]:
    """Return the containers that lead to a path, by path and name."""
    parts = path.strip("/").split("/") if path != "/" else []
    return [("/" + "/".join(parts[: number + 1]), part) for number, part in enumerate(parts)]


def _shown(node: Node) -> dict[str, Any]:
    """Return what a list shows of a node."""
    groups = " ".join(node.properties.get(uri, "") for uri in (GROUP_READ, GROUP_WRITE)).split()
    folder = node.kind == "ContainerNode"
    shared = ["everybody"] if node.properties.get(PUBLIC) == "true" else []
    return {
        "folder": folder,
        "link": node.kind == "LinkNode",
        "size": "" if folder or node.kind == "LinkNode" else size(node.number(LENGTH)),
        "date": node.properties.get(DATE, "")[:16].replace("T", " "),
        "shared": ", ".join([*shared, *dict.fromkeys(group.partition("?")[2] for group in groups)]),
    }


@router.get("/space")
async def own_space(request: Request, who: Visitor) -> Response:
    """Lead to the user's own area."""
    return RedirectResponse(
        f"{page(request).base}/space{quote(context(request).settings.home_of(who.identity.username))}", 303
    )


@router.get("/space/{path:path}")
async def listing(
    request: Request, who: Visitor, path: str, start: Annotated[str | None, Query(max_length=1024)] = None
) -> Response:
    """List a container."""
    return await _listing(request, who, _path(path), start)


async def _listing(
    request: Request, who: Caller, path: str, start: str | None = None, error: Problem | None = None
) -> Response:
    shared, own = context(request), page(request)
    home = shared.settings.home_of(who.identity.username)
    node: Node | None = None
    children: dict[str, Node] = {}
    following = None
    try:
        node, children, following = await shared.cavern.listing(path, who.token, ENTRIES, start)
    except CavernError as exc:
        if path != home or exc.fault not in {"NodeNotFound", "ContainerNotFound"}:
            raise
    if node is not None and node.kind != "ContainerNode":
        return RedirectResponse(f"{own.base}/node{quote(path)}", 303)
    entries = [(_below(path, name), name, _shown(child)) for name, child in children.items()]
    entries.sort(key=lambda entry: not entry[2]["folder"])
    return own.pages.render(
        "space.html",
        200 if error is None else error.status,
        who=who,
        path=path,
        home=home,
        steps=_steps(path),
        node=node,
        entries=entries,
        further=following,
        first=start is None,
        quota=await _quota(shared, who, path, node),
        error=error,
        stage_to=_relative(path, home),
    )


def _relative(path: str, home: str) -> str | None:
    """Return a container's path relative to the user's area, if it is there."""
    if path == home:
        return "."
    return path.removeprefix(f"{home}/") if path.startswith(f"{home}/") else None


async def _quota(shared: Context, who: Caller, path: str, node: Node | None) -> dict[str, Any] | None:
    """Return how much of the quota of the area that *path* is in is used."""
    area = "/".join(path.split("/")[:3])
    if path.count("/") < 2:
        return None
    found = node if path == area else await shared.cavern.node(area, who.token)
    most = found.number(QUOTA) if found else None
    if found is None or most is None:
        return None
    used = found.number(LENGTH) or 0
    return {"used": used, "most": most, "text": f"{size(used)} of {size(most)} used"}


@router.post("/space/{path:path}")
async def make(request: Request, who: Visitor, path: str, fields: Form) -> Response:
    """Make a folder in a container, or the user's own area."""
    place, shared = _path(path), context(request)
    try:
        if fields.get("do") == "area" and place == shared.settings.home_of(who.identity.username):
            await _make_area(shared, who)
        else:
            name = _name(fields.get("name", ""))
            if not await shared.cavern.create_container(_below(place, name), who.token):
                raise Conflict(f"There is something called {name} already")
    except CavernError as exc:
        return await _listing(request, who, place, error=refusal(exc))
    except Problem as exc:
        return await _listing(request, who, place, error=exc)
    return RedirectResponse(f"{page(request).base}/space{quote(place)}", 303)


async def _make_area(shared: Context, who: Caller) -> None:
    """Make the user's area, as staging does for the first file."""
    areas = Areas(shared.settings, shared.cavern, shared.credentials)
    try:
        await areas.create(who.identity.username, who.token)
    except NoAdministrator as exc:
        raise Unavailable(str(exc)) from exc
    except AuthenticationError as exc:
        raise Unavailable(exc.description) from exc


@router.get("/node/{path:path}")
async def one_node(request: Request, who: Visitor, path: str) -> Response:
    """Show a node, and what can be done with it."""
    return await _node_page(request, who, _path(path))


async def _node_page(request: Request, who: Caller, path: str, error: Problem | None = None) -> Response:
    shared, own = context(request), page(request)
    node = await shared.cavern.node(path, who.token)
    if node is None:
        raise NotFound(f"There is no {path}")
    properties = node.properties
    return own.pages.render(
        "node.html",
        200 if error is None else error.status,
        who=who,
        path=path,
        name=path.rpartition("/")[2],
        parent=_parent(path),
        steps=_steps(_parent(path)),
        node=node,
        shown=_shown(node),
        facts={
            "Size": size(node.number(LENGTH)) if node.kind == "DataNode" else "",
            "Changed": properties.get(DATE, "")[:19].replace("T", " "),
            "Media type": properties.get(TYPE, ""),
            "MD5": node.md5 or "",
            "Owner": properties.get(CREATOR, ""),
        },
        public=properties.get(PUBLIC) == "true",
        inherits=properties.get(INHERIT) == "true",
        readers=_names(shared, properties.get(GROUP_READ, "")),
        writers=_names(shared, properties.get(GROUP_WRITE, "")),
        groups=sorted(who.identity.groups),
        fixed=path.count("/") < 3,
        error=error,
    )


def _authority(shared: Context) -> str:
    """Return the beginning of the URIs of the site's groups."""
    authority = shared.settings.preparer_vos_uri.removeprefix("vos://").partition("~")[0]
    return f"ivo://{authority}/gms?"


def _names(shared: Context, uris: str) -> str:
    """Return groups as users write them: the site's by their names, separated by blanks."""
    return " ".join(uri.removeprefix(_authority(shared)) for uri in uris.split())


def _groups(shared: Context, text: str, what: str) -> str | None:
    """Return the URIs of groups. Raises `Invalid`."""
    words = re.split(r"[\s,]+", text.strip())
    uris = [word if word.startswith("ivo://") else f"{_authority(shared)}{word}" for word in words if word]
    for uri, word in zip(uris, filter(None, words), strict=True):
        if not GROUP.match(uri):
            raise Invalid(f"{what}: {word[:120]!r} is no group, which has a name such as survey")
    return " ".join(uris) or None


@router.post("/node/{path:path}")
async def change(request: Request, who: Visitor, path: str, fields: Form) -> Response:
    """Move, share or delete a node."""
    place, shared = _path(path), context(request)
    actions = {"move": _move, "share": _share, "delete": _delete}
    try:
        action = actions.get(fields.get("do", ""))
        if action is None:
            raise Invalid("do: move, share or delete")
        where = await action(shared, who, place, fields)
    except CavernError as exc:
        return await _node_page(request, who, place, refusal(exc))
    except Problem as exc:
        return await _node_page(request, who, place, exc)
    return RedirectResponse(f"{page(request).base}/{where}", 303)


async def _move(shared: Context, who: Caller, place: str, fields: dict[str, str]) -> str:
    folder = _path(fields.get("folder", ""))
    target = _below(folder, _name(fields.get("name", "")))
    if target != place:
        if target.startswith(f"{place}/"):
            raise Invalid("Folder: it is in what is to be moved")
        if await shared.cavern.node(target, who.token) is not None:
            raise Conflict(f"There is a {target} already")
        await shared.cavern.move(place, target, who.token)
    return f"space{quote(folder)}"


async def _share(shared: Context, who: Caller, place: str, fields: dict[str, str]) -> str:
    node = await shared.cavern.node(place, who.token)
    if node is None:
        raise NotFound(f"There is no {place}")
    properties: dict[str, str | None] = {
        GROUP_READ: _groups(shared, fields.get("readers", ""), "Groups that may read"),
        GROUP_WRITE: _groups(shared, fields.get("writers", ""), "Groups that may write"),
        PUBLIC: "true" if fields.get("public") else "false",
    }
    if node.kind == "ContainerNode":
        properties[INHERIT] = "true" if fields.get("inherits") else "false"
    await shared.cavern.update(place, properties, who.token, node.kind)
    return f"node{quote(place)}"


async def _delete(shared: Context, who: Caller, place: str, _: dict[str, str]) -> str:
    node = await shared.cavern.node(place, who.token)
    if node is not None and node.kind == "ContainerNode":
        await shared.cavern.delete_tree(place, who.token)
    elif node is not None:
        await shared.cavern.delete(place, who.token)
    return f"space{quote(_parent(place))}"


@router.get("/files/{path:path}")
async def download(request: Request, who: Visitor, path: str) -> Response:
    """Send a file, for the browser to save: it is never shown as a page of this site."""
    place, shared = _path(path), context(request)
    node = await shared.cavern.node(place, who.token)
    if node is None or node.kind == "ContainerNode":
        raise NotFound(f"There is no file {place}")
    chunks = shared.cavern.read(place, who.token)
    # What is refused is an answer of its own, so the first bytes are waited for.
    first = await anext(chunks, b"")

    async def content() -> Any:
        yield first
        async for chunk in chunks:
            yield chunk

    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(place.rpartition('/')[2], safe='')}",
        "Content-Type": "application/octet-stream",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }
    length = node.number(LENGTH)
    if node.kind == "DataNode" and length is not None and ENCODING not in node.properties:
        headers["Content-Length"] = str(length)
    return StreamingResponse(content(), headers=headers)


@router.put("/files/{path:path}", dependencies=[Depends(own_page)])
async def upload(request: Request, who: Visitor, path: str) -> Response:
    """Take a file as it comes, and hand it on; what is there is replaced unless `If-None-Match: *` says otherwise."""
    place, shared = _path(path), context(request)
    shared.limit(who.identity.username)
    _name(place.rpartition("/")[2])
    if request.headers.get("if-none-match") == "*" and await shared.cavern.node(place, who.token) is not None:
        raise Conflict(f"There is a {place} already")
    length = request.headers.get("content-length", "")
    kind = request.headers.get("content-type", "")
    try:
        await shared.cavern.put(
            place,
            request.stream(),
            int(length) if length.isdecimal() and len(length) < 20 else None,
            who.token,
            kind if _MEDIA_TYPE.fullmatch(kind) else None,
        )
    except ClientDisconnect:
        # Nobody is there to be told. Cavern keeps nothing of a file that does not come to its end.
        return Response(status_code=400)
    return JSONResponse({"path": place}, 201)
