"""`/nodes`: the metadata of nodes (VOSpace 2.1 section 3.4 and 3.5), in Cavern's forms."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import islice
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse
from voservice.auth import USERNAME
from voservice.responses import xml
from voservice.routes import RequestRoute
from vospace_client import terms

from vospace.dependencies import Context, Reader, Writer, context, rest_of_path
from vospace.documents import (
    MAX_DOCUMENT,
    READ_ONLY,
    Names,
    NodeDocument,
    NodeWriter,
    ids_in,
    properties_of,
    read_node,
    target_of,
)
from vospace.handlers.files import BLOCK
from vospace.models.caller import Caller
from vospace.models.errors import (
    DuplicateNode,
    InvalidArgument,
    InvalidURI,
    PermissionDenied,
    RequestTooLarge,
)
from vospace.models.node import Change, Node
from vospace.models.uri import MAX_PATH, Path, check_name, decode_path, encode_path
from vospace.services.changes import names_groups
from vospace.space.space import Space
from vospace.uws.parameters import Parameters, require_xml

PAGE = 1000
GET, PUT, POST, DELETE = (
    "A node, and what is in it if it is a container",
    "Create a node",
    "Change a node's properties",
    "Remove a node; a container must be empty",
)

router = APIRouter(tags=["nodes"], route_class=RequestRoute)


@router.get("/nodes", summary=GET)
@router.get("/nodes/{path:path}", summary=GET)
async def get_node(request: Request, caller: Reader) -> Response:
    """Send the document of a node, in XML or JSON; a container's children in pages."""
    shared = context(request)
    path = _path(request, shared)
    parameters = Parameters(request.query_params.multi_items())
    if (parameters.first("view") or "").lower() == "data":
        return RedirectResponse(f"{shared.settings.service_url}/files{encode_path(path)}", status_code=303)
    detail = parameters.first("detail") or "properties"
    rendering = parameters.first("Accept") or "text/xml"
    if rendering not in ("text/xml", "application/xml", "application/json"):
        raise InvalidArgument(f"Accept must be text/xml or application/json, not {rendering[:60]}")
    limit = parameters.integer("limit")
    if limit is not None and limit < 0:
        raise InvalidArgument("value for limit must be a positive integer.")
    start = _start(shared.space, parameters.first("uri"), path)
    sort = _sort(parameters)

    def read() -> tuple[Node, list[Node], Iterator[Node]]:
        node = shared.space.node(caller, path)
        children: Iterator[Node] = iter(())
        if node.kind == "ContainerNode" and limit != 0 and node.readable:
            if sort is None:
                children = shared.space.children(caller, path, start, limit)
            else:
                children = iter(_sorted(shared.space, caller, path, start, limit, sort))
        return node, _page(children), children

    node, first, rest = await asyncio.to_thread(read)
    json_wanted = rendering == "application/json"
    render, kind = (_json, "application/json") if json_wanted else (_xml, "text/xml")
    return await _listing(
        shared.space, render(shared, node, _pages(first, rest), detail), kind, long=len(first) == PAGE
    )


@router.put("/nodes", summary=PUT, status_code=201)
@router.put("/nodes/{path:path}", summary=PUT, status_code=201)
async def put_node(request: Request, caller: Writer) -> Response:
    """Make the node of a document."""
    shared = context(request)
    path = _path(request, shared)
    document = await _read(request)
    if document.uri is not None and shared.space.naming.path(document.uri) != path:
        raise InvalidURI(f"uri of the document is not {shared.space.naming.uri(path)}")
    if caller.anonymous:
        await asyncio.to_thread(_refuse, shared, caller, path)
    admin = shared.space.rules.is_admin(caller)
    if names_groups(document):  # which get numbers for ever, so only at the wish of who may make the node
        container = document.kind == "ContainerNode"
        await asyncio.to_thread(shared.space.require_create, caller, path, container=container)
    change = await shared.changes.of(document, admin=admin)
    creator = document.properties.get(terms.CREATOR)
    owner = await _owner(shared, creator) if admin and creator else None
    match document.kind:
        case "ContainerNode":
            node = await asyncio.to_thread(shared.space.create_container, caller, path, change, owner)
        case "LinkNode":
            _require_no_properties(change)
            target = _link_target(shared.space, document.target or "")
            node = await asyncio.to_thread(shared.space.create_link, caller, path, target, owner)
        case _:
            node = await asyncio.to_thread(shared.space.create_data, caller, path, change, owner)
    return xml(await _document(shared, node), 201)


@router.post("/nodes", summary=POST)
@router.post("/nodes/{path:path}", summary=POST)
async def post_node(request: Request, caller: Writer) -> Response:
    """Take over the properties of a document."""
    shared = context(request)
    path = _path(request, shared)
    document = await _read(request)
    naming = shared.space.naming
    if document.uri is not None and naming.path(document.uri) != path:
        raise InvalidArgument(f"uri of the document is not {naming.uri(path)}")
    if caller.anonymous:
        raise PermissionDenied(
            f"{naming.uri(path)}: changing needs a token from {shared.settings.oidc_issuer}"
        )
    before = await asyncio.to_thread(shared.space.node, caller, path)
    if before.kind != document.kind:
        raise InvalidArgument(f"{naming.uri(path)} is a {before.kind}, the document has {document.kind}")
    if names_groups(document):
        await asyncio.to_thread(shared.space.require_update, caller, path)
    change = await shared.changes.of(document, admin=shared.space.rules.is_admin(caller))
    if before.kind == "LinkNode":
        _require_no_properties(change)
        if not before.writable:
            raise PermissionDenied(naming.uri(path))
        if _link_target(shared.space, document.target or "") != before.target:
            raise InvalidArgument("a link's target is not changed: remove the link and make another")
        return xml(await _document(shared, before))
    node = await asyncio.to_thread(shared.space.update, caller, path, change)
    return xml(await _document(shared, node))


@router.delete("/nodes", summary=DELETE)
@router.delete("/nodes/{path:path}", summary=DELETE)
async def delete_node(request: Request, caller: Writer) -> Response:
    """Remove a node."""
    shared = context(request)
    await asyncio.to_thread(shared.space.delete, caller, _path(request, shared))
    return Response(status_code=200)


def _path(request: Request, shared: Context) -> Path:
    return decode_path(rest_of_path(request, shared, "/nodes"))


async def _listing(space: Space, parts: AsyncIterator[bytes], kind: str, *, long: bool) -> Response:
    """The document with its length stated: the Python client reads no more than the first piece of a chunked
    answer. A long one goes through a file without a name, so that memory stays flat."""
    if not long:
        return Response(b"".join([part async for part in parts]), headers={"Content-Type": kind})
    spool = await asyncio.to_thread(space.spool)
    try:
        async for part in parts:
            await asyncio.to_thread(spool.write, part)
        length = spool.tell()
        spool.seek(0)
    except BaseException:
        spool.close()
        raise
    return StreamingResponse(_spooled(spool), headers={"Content-Type": kind, "Content-Length": str(length)})


def _start(space: Space, uri: str | None, path: Path) -> str | None:
    """The name of the child at which the list begins (VOSpace 2.1 section 3.5.1, parameter uri)."""
    if uri is None:
        return None
    child = space.naming.path(uri)
    if not child or child[:-1] != path:
        raise InvalidURI(f"uri is not a child of {space.naming.uri(path)}")
    return check_name(child[-1])


def _sorted(
    space: Space, caller: Caller, path: Path, start: str | None, limit: int | None, sort: tuple[str, bool]
) -> list[Node]:
    by, descending = sort
    nodes = list(space.children(caller, path))
    if by == terms.LENGTH:
        nodes.sort(key=lambda n: (n.length, n.path[-1]), reverse=descending)
    elif by == terms.DATE:
        nodes.sort(key=lambda n: (n.modified_ns, n.path[-1]), reverse=descending)
    else:
        nodes.sort(key=lambda n: n.path[-1], reverse=descending)
    if start is not None:
        names = [n.path[-1] for n in nodes]
        nodes = nodes[names.index(start) :] if start in names else []
    return nodes if limit is None else nodes[:limit]


async def _pages(page: list[Node], rest: Iterator[Node]) -> AsyncIterator[list[Node]]:
    """The first page, which was read already, and all others. One that is not full is the last."""
    while page:
        yield page
        page = await asyncio.to_thread(_page, rest) if len(page) == PAGE else []


async def _xml(
    shared: Context, node: Node, pages: AsyncIterator[list[Node]], detail: str
) -> AsyncIterator[bytes]:
    writer = NodeWriter(shared.space.naming, detail)
    yield writer.opening(node, await _names(shared, [node])).encode()
    async for page in pages:
        names = await _names(shared, page)
        yield "".join(writer.child(child, names) for child in page).encode()
    yield writer.closing(node).encode()


async def _document(shared: Context, node: Node) -> bytes:
    return b"".join([part async for part in _xml(shared, node, _pages([], iter(())), "properties")])


async def _json(
    shared: Context, node: Node, pages: AsyncIterator[list[Node]], detail: str
) -> AsyncIterator[bytes]:
    spaces = {"@xmlns:vos": terms.VOS, "@xmlns:xsi": terms.XSI}
    content = _json_node(shared.space, node, await _names(shared, [node]), detail)
    text = json.dumps({"vos:node": spaces | content})
    if node.kind != "ContainerNode":
        yield text.encode()
        return
    opening, empty, closing = text.rpartition("[]")  # of the nodes, which come last
    yield (opening + empty[0]).encode()
    separator = ""
    async for page in pages:
        names = await _names(shared, page)
        entries = ", ".join(json.dumps(_json_node(shared.space, child, names, detail)) for child in page)
        yield (separator + entries).encode()
        separator = ", "
    yield (empty[1] + closing).encode()


async def _names(shared: Context, nodes: Iterable[Node]) -> Names:
    uids, gids = ids_in(nodes)
    users: dict[int, str] = {}
    groups: dict[int, str] = {}
    for uid in uids:
        if (name := await shared.identities.name(uid)) is not None:
            users[uid] = name
    for gid in gids:
        if (group := await shared.identities.group(gid)) is not None:
            groups[gid] = group
    return Names(users, groups)


async def _read(request: Request) -> NodeDocument:
    require_xml(request)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_DOCUMENT:
            raise RequestTooLarge(f"limit: {MAX_DOCUMENT}")
    return read_node(bytes(body))


def _refuse(shared: Context, caller: Caller, path: Path) -> None:
    """Tell an anonymous caller what is wrong, in Cavern's order: a missing parent or a name that is taken first."""
    uri = shared.space.naming.uri(path)
    if not path:
        raise DuplicateNode(uri)
    with shared.space.locate(caller, path) as place:
        if place.kind is not None:
            raise DuplicateNode(uri)
    raise PermissionDenied(
        f"{uri}: creating needs a credential: get a token from {shared.settings.oidc_issuer}"
        " and send it as Authorization: Bearer TOKEN"
    )


async def _owner(shared: Context, creator: str) -> tuple[int, int]:
    """uid and gid of a user given by name or, as Cavern allows too, by number."""
    if not creator.isdecimal():
        if not USERNAME.match(creator):
            raise InvalidArgument(f"{terms.CREATOR}: not a user: {creator[:80]!r}")
        return await shared.identities.account(creator)
    name = await shared.identities.name(int(creator)) if len(creator) < 11 else None
    if name is None:
        raise InvalidArgument(f"{terms.CREATOR}: nobody has the uid {creator[:80]}")
    return await shared.identities.account(name)


def _link_target(space: Space, target: str) -> Path | str:
    """A path of this space, or the absolute path of a `file` URI."""
    parts = urlsplit(target)
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        path = unquote(parts.path)
        if (
            "\x00" not in path
            and len(os.fsencode(path)) < MAX_PATH
            and not parts.query
            and not parts.fragment
        ):
            return path
    try:
        return space.naming.path(target)
    except InvalidURI:
        raise InvalidArgument(f"link to external resource: {target[:200]}") from None


async def _spooled(spool: IO[bytes]) -> AsyncIterator[bytes]:
    try:
        while block := await asyncio.to_thread(spool.read, BLOCK):
            yield block
    finally:
        spool.close()


def _require_no_properties(change: Change) -> None:
    """A link has nowhere to keep properties, and no permissions of its own."""
    if any(value is not None for value in change.properties.values()):
        raise InvalidArgument("a LinkNode has no properties of its own")


def _page(children: Iterator[Node]) -> list[Node]:
    return list(islice(children, PAGE))


def _sort(parameters: Parameters) -> tuple[str, bool] | None:
    """Return the property to sort by, and whether in descending order."""
    by, order = parameters.first("sort"), parameters.first("order")
    if by is None and order is None:
        return None
    if by not in (None, terms.LENGTH, terms.DATE, terms.TITLE):
        raise InvalidArgument(f"sort must be {terms.DATE} or {terms.LENGTH}")
    if (order or "asc").lower() not in ("asc", "desc"):
        raise InvalidArgument("order must be asc or desc")
    return by or "", (order or "asc").lower() == "desc"


def _json_node(space: Space, node: Node, names: Names, detail: str) -> dict[str, Any]:
    """As Cavern derives JSON from the XML: `@` before attributes, `$` for text and for lists, whose entries are not
    named; values of properties are text."""
    content: dict[str, Any] = {"@uri": space.naming.uri(node.path), "@xsi:type": f"vos:{node.kind}"}
    if detail != "min":
        if node.kind == "DataNode":
            content["@busy"] = False
        values = properties_of(node, names, readable=detail == "max")
        content["vos:properties"] = {
            "$": [
                {"@uri": uri, **({"@readOnly": "true"} if uri in READ_ONLY else {}), "$": values[uri]}
                for uri in sorted(values)
            ]
        }
    if node.kind == "DataNode":
        content |= {"vos:accepts": {"$": []}, "vos:provides": {"$": []}}
    elif node.kind == "ContainerNode":
        content["vos:nodes"] = {"$": []}
    else:
        content["vos:target"] = {"$": target_of(space.naming, node)}
    return content
