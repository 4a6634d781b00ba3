"""`/files`: the bytes of data nodes."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from email.utils import formatdate
from functools import partial
from io import FileIO
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response, StreamingResponse
from voservice.browsers import SANDBOX
from vospace_client import terms

from vospace.handlers import conditions
from vospace.handlers.digests import Known, Stated
from vospace.models.caller import Caller
from vospace.models.errors import InvalidArgument
from vospace.models.sizes import byte_count
from vospace.models.uri import Path, decode_path
from vospace.services.preauth import PREFIX, Mode, Preauth
from vospace.space.lookup import OpenFile
from vospace.space.receive import Receiver
from vospace.space.space import Space

BLOCK = 1 << 20
SMALL = 256 << 10
"""Bytes of a file that is sent from memory."""
MAX_DIGITS = 18
"""Of a position in a file."""
CallerOf = Callable[[Request], Awaitable[Caller]]


class FileHandlers:
    """GET, HEAD and PUT of data nodes, with ranges and conditions (RFC 9110 sections 13 and 14)."""

    def __init__(
        self,
        space: Space,
        preauth: Preauth,
        files_path: str,
        caller_of: CallerOf,
        require_writable: Callable[[], None],
    ) -> None:
        self._space = space
        self._preauth = preauth
        self._prefix = f"{files_path}/"
        self._caller_of = caller_of
        self._require_writable = require_writable

    def router(self) -> APIRouter:
        router = APIRouter(tags=["files"])
        caller_of = self._caller_of
        Who = Annotated[Caller, Depends(caller_of)]

        @router.get("/files/{path:path}", summary="Read a data node")
        async def get_file(request: Request, caller: Who) -> Response:
            return await self._read(request, caller, body=True)

        @router.head("/files/{path:path}", summary="Headers of a data node")
        async def head_file(request: Request, caller: Who) -> Response:
            return await self._read(request, caller, body=False)

        @router.put("/files/{path:path}", summary="Write a data node, on conditions if there are any")
        async def put_file(request: Request, caller: Who) -> Response:
            return await self._write(request, caller)

        return router

    def _target(self, request: Request, caller: Caller, mode: Mode) -> tuple[Path, Caller]:
        raw = request.scope["raw_path"].decode("ascii").split("?", 1)[0]
        rest = raw[raw.index(self._prefix) + len(self._prefix) :]
        if not rest.startswith(PREFIX):
            return decode_path(rest), caller
        token, _, node = rest.removeprefix(PREFIX).partition("/")
        path = decode_path(node)
        return path, self._preauth.caller(token, path, mode)

    async def _read(self, request: Request, caller: Caller, *, body: bool) -> Response:
        path, caller = self._target(request, caller, "read")
        opened, file, content = await asyncio.to_thread(self._open, caller, path, body)
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

    def _open(self, caller: Caller, path: Path, body: bool) -> tuple[OpenFile, FileIO, bytes | None]:
        """The file, and its bytes if they are wanted and few: one turn in a thread then. What the headers say, the
        node's document says to the same callers."""
        opened = self._space.open(caller, path, read=body)
        file = FileIO(opened.descriptor)
        size = opened.status.stat.st_size
        if not body or size > SMALL:
            return opened, file, None
        content = file.read(SMALL)
        return opened, file, content if len(content) == size else None

    async def _write(self, request: Request, caller: Caller) -> Response:
        self._require_writable()
        path, caller = self._target(request, caller, "write")
        stated = Stated(request.headers)
        declared = request.headers.get("content-length")
        if request.headers.get("content-range") is not None:
            raise InvalidArgument("Content-Range is not supported: send the whole file")
        if declared == "0" and request.headers.get("x-total-length", "0") != "0":
            # The Python client announces a very large file with an empty request, then sends it.
            return Response(status_code=201, headers={"Content-Length": "0"})
        require = conditions.writing(request.headers)
        begin = partial(self._space.upload, caller, path, follow=False, require=require)
        async with Receiver(begin, algorithms=stated.algorithms) as receiver:
            upload, sink = await receiver.open()
            await receiver.receive(request.stream(), None if declared is None else byte_count(declared))
            stated.verify(sink)
            kind = request.headers.get("content-type")
            properties = receiver.properties(kind, request.headers.get("content-encoding"))
            await asyncio.to_thread(upload.commit, properties)
            written = os.fstat(upload.descriptor)
        headers = {
            "ETag": conditions.tag(written),
            "Content-Length": "0",
            **Known(properties).instance(request.headers),
        }
        if kind:
            headers["Content-Type"] = kind
        return Response(status_code=201, headers=headers)


async def _blocks(file: FileIO, start: int, end: int) -> AsyncIterator[bytes]:
    with file:
        while start < end:
            block = await asyncio.to_thread(os.pread, file.fileno(), min(BLOCK, end - start), start)
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
