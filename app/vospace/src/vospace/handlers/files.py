"""`/files`: the bytes of data nodes, with ranges and conditions (RFC 9110 sections 13 and 14)."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack
from email.utils import formatdate
from functools import partial
from io import FileIO
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from voservice.browsers import SANDBOX
from voservice.routes import RequestRoute
from vospace_client import terms

from vospace.dependencies import Context, Reader, Writer, context, rest_of_path
from vospace.handlers import conditions
from vospace.handlers.digests import Known, Stated
from vospace.models.caller import Caller
from vospace.models.errors import InvalidArgument
from vospace.models.sizes import byte_count
from vospace.models.uri import Path, decode_path
from vospace.services.preauth import PREFIX, Mode
from vospace.space.lookup import OpenFile
from vospace.space.receive import Receiver
from vospace.space.space import Space
from vospace.storage.threads import in_thread

BLOCK = 1 << 20
SMALL = 256 << 10
"""Bytes of a file that is received into memory, and sent from there."""
MAX_DIGITS = 18
"""Of a position in a file."""

router = APIRouter(tags=["files"], route_class=RequestRoute)


@router.get("/files/{path:path}", summary="Read a data node")
async def get_file(request: Request, caller: Reader) -> Response:
    """Send the file, or a part of it."""
    shared = context(request)
    return await _read(request, shared, caller, body=True)


@router.head("/files/{path:path}", summary="Headers of a data node")
async def head_file(request: Request, caller: Reader) -> Response:
    """Tell what a GET would."""
    shared = context(request)
    return await _read(request, shared, caller, body=False)


@router.put("/files/{path:path}", summary="Write a data node, on conditions if there are any")
async def put_file(request: Request, caller: Writer) -> Response:
    """Write the whole file: it appears when all of it has arrived."""
    shared = context(request)
    path, caller = _target(request, shared, caller, "write")
    stated = Stated(request.headers)
    declared = request.headers.get("content-length")
    if request.headers.get("content-range") is not None:
        raise InvalidArgument("Content-Range is not supported: send the whole file")
    if declared == "0" and request.headers.get("x-total-length", "0") != "0":
        # The Python client announces a very large file with an empty request, then sends it.
        return Response(status_code=201, headers={"Content-Length": "0"})
    announced = None if declared is None else byte_count(declared)
    require = conditions.writing(request.headers)
    begin = partial(shared.space.upload, caller, path, follow=False, require=require)
    kind = request.headers.get("content-type")
    async with Receiver(begin, buffer=SMALL, algorithms=stated.algorithms) as receiver:
        if announced is None or announced > SMALL or "expect" in request.headers or caller.anonymous:
            # What is not wanted is refused before it is sent, and nobody without a name has memory for it.
            await receiver.open()
        await receiver.receive(request.stream(), announced)

        def store() -> tuple[os.stat_result, dict[str, str | None]]:
            stated.verify(receiver)
            properties = receiver.properties(kind, request.headers.get("content-encoding"))
            return receiver.commit(properties), properties

        # A small file in one turn of a thread: opened, written, verified and placed.
        written, properties = await in_thread(store)
    headers = {
        "ETag": conditions.tag(written),
        "Content-Length": "0",
        **Known(properties).instance(request.headers),
    }
    if kind:
        headers["Content-Type"] = kind
    return Response(status_code=201, headers=headers)


def _target(request: Request, shared: Context, caller: Caller, mode: Mode) -> tuple[Path, Caller]:
    rest = rest_of_path(request, shared, "/files/")
    if not rest.startswith(PREFIX):
        return decode_path(rest), caller
    token, _, node = rest.removeprefix(PREFIX).partition("/")
    path = decode_path(node)
    return path, shared.preauth.caller(token, path, mode)


async def _read(request: Request, shared: Context, caller: Caller, *, body: bool) -> Response:
    path, caller = _target(request, shared, caller, "read")
    opened, file, content = await asyncio.to_thread(_open, shared.space, caller, path, body)
    with ExitStack() as closing:
        closing.enter_context(file)
        headers = _headers(opened, path[-1])
        if conditions.unchanged(request.headers, headers):
            return Response(status_code=304, headers=_unchanged(headers))
        size = opened.status.stat.st_size
        start, end, code = 0, size, 200
        if (span := _range(request, headers, size)) is not None:
            start, end = span
            if start >= end:
                return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
            code = 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        headers |= Known(opened.properties).all(request.headers, whole=code == 200)
        if size == 0 and body:
            return Response(status_code=204, headers=headers)
        headers["Content-Length"] = str(end - start)
        if not body:
            return Response(status_code=code, headers=headers)
        if content is not None:
            return Response(content[start:end], code, headers)
        closing.pop_all()  # whoever reads it closes it
        return StreamingResponse(_blocks(file, start, end), status_code=code, headers=headers)


def _open(space: Space, caller: Caller, path: Path, body: bool) -> tuple[OpenFile, FileIO, bytes | None]:
    """The file, and its bytes if they are wanted and few: one turn in a thread then. What the headers say, the
    node's document says to the same callers."""
    opened = space.open(caller, path, read=body)
    file = FileIO(opened.descriptor)
    size = opened.status.stat.st_size
    if not body or size > SMALL:
        return opened, file, None
    content = file.read(SMALL)
    return opened, file, content if len(content) == size else None


async def _blocks(file: FileIO, start: int, end: int) -> AsyncIterator[bytes]:
    with file:
        while start < end:
            block = await in_thread(os.pread, file.fileno(), min(BLOCK, end - start), start)
            if not block:
                raise OSError("the file became shorter while it was read")
            start += len(block)
            yield block


def _headers(opened: OpenFile, name: str) -> dict[str, str]:
    """`name`: what the request calls the file, which for a link is the link's name."""
    found = opened.status.stat
    plain = name.encode("ascii", "replace").decode().replace('"', "_").replace("\\", "_")
    disposition = f'inline; filename="{plain}"'
    if plain != name:
        disposition += f"; filename*=UTF-8''{quote(name, safe='')}"
    headers = {
        **SANDBOX,
        "Content-Disposition": disposition,
        "Last-Modified": formatdate(found.st_mtime, usegmt=True),
        "ETag": conditions.tag(found),
        "Accept-Ranges": "bytes",
    }
    properties = opened.properties
    headers["Content-Type"] = _header_value(properties.get(terms.TYPE)) or "application/octet-stream"
    if encoding := _header_value(properties.get(terms.ENCODING)):
        headers["Content-Encoding"] = encoding
    return headers


def _header_value(value: str | None) -> str | None:
    return value if value and value.isprintable() and value.isascii() else None


def _unchanged(headers: dict[str, str]) -> dict[str, str]:
    return {name: headers[name] for name in ("ETag", "Last-Modified") if name in headers}


def _range(request: Request, headers: dict[str, str], size: int) -> tuple[int, int] | None:
    """First byte and the one behind the last, None for the whole file. Several ranges are answered by the whole."""
    value = request.headers.get("range")
    if value is None or not value.startswith("bytes=") or "," in value:
        return None
    condition = request.headers.get("if-range")
    if condition is not None and condition not in (headers["ETag"], headers["Last-Modified"]):
        return None
    first, dash, last = value.removeprefix("bytes=").strip().partition("-")
    if not dash or not (first or last) or not (first or "0").isdecimal() or not (last or "0").isdecimal():
        return None
    if len(first) > MAX_DIGITS or len(last) > MAX_DIGITS:
        return None
    if not first:
        return max(0, size - int(last)), size
    if last and int(last) < int(first):
        return None
    return int(first), min(size, int(last) + 1) if last else size
