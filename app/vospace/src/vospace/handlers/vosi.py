"""VOSI availability and capabilities (VOSI 1.1), and a page for people who come with a browser."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from html import escape

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from voservice import vosi
from voservice.responses import xml
from vospace_client import terms

from vospace.control.state import State

EVERYBODY = (vosi.ANONYMOUS, vosi.CERTIFICATE, vosi.TOKEN)
KNOWN = (vosi.CERTIFICATE, vosi.TOKEN)
OPEN = (vosi.ANONYMOUS,)

# Standard, path, how the URL is used, who may call: in the order of Cavern's own document.
CAPABILITIES: list[tuple[str, str, str, tuple[str, ...]]] = [
    ("ivo://ivoa.net/std/VOSI#capabilities", "capabilities", "full", OPEN),
    ("ivo://ivoa.net/std/VOSI#availability", "availability", "full", OPEN),
    (terms.NODES, "nodes", "base", EVERYBODY),
    (terms.FILES, "files", "base", EVERYBODY),
    (terms.TRANSFERS, "transfers", "full", EVERYBODY),
    (terms.SYNCTRANS, "synctrans", "full", EVERYBODY),
    (terms.PACKAGE, "pkg", "full", EVERYBODY),
    (terms.RECURSIVE_PROPERTIES, "async-setprops", "full", KNOWN),
    (terms.RECURSIVE_DELETE, "async-delete", "full", KNOWN),
    (terms.BULK_PULL, "bulk-pull", "full", KNOWN),
    ("vos://cadc.nrc.ca~vospace/CADC/std/LOGGING#logControl-1.0", "logControl", "full", KNOWN),
]

# The page has its style in itself.
PAGE_POLICY = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
}
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>VOSpace</title>
<style>body{{font:16px/1.5 sans-serif;max-width:44em;margin:3em auto;padding:0 1em}}
td{{padding:.1em 1em .1em 0}}</style>
<h1>VOSpace</h1><p>Files of {resource}, by VOSpace 2.1. Clients such as <code>vls</code> and <code>vcp</code> of the
Python package <code>vos</code> work with it.</p><table>{rows}</table><p><a href="docs">API</a></p></html>"""


def router(
    resource: str,
    url: str,
    database_ready: Callable[[], Awaitable[object]],
    files_ready: Callable[[], object],
    state: Callable[[], State],
    address: Callable[[Request], str],
) -> APIRouter:
    """Routes of a service at *url*, whose database and file system the two functions test by raising. *address* tells
    where a request comes from.

    With `detail=min` availability is a sign of life and says nothing of maintenance: whatever restarts the service when
    it is dead must leave it alone then."""
    routes = APIRouter(tags=["VOSI"])
    entries = [
        vosi.Capability(standard, f"{url}/{path}", "base" if use == "base" else "full", methods)
        for standard, path, use, methods in CAPABILITIES
    ]

    @routes.head("/capabilities", include_in_schema=False)
    @routes.get("/capabilities", summary="What the service offers and where")
    async def capabilities() -> Response:
        return xml(vosi.capabilities(entries))

    @routes.head("/availability", include_in_schema=False)
    @routes.get("/availability", summary="Whether database and file system answer")
    async def availability(request: Request) -> Response:
        available, note = True, state().note
        try:
            async with asyncio.timeout(5):
                await database_ready()
                await asyncio.to_thread(files_ready)
        except Exception as exc:  # whatever is wrong with either is the answer
            available, note = False, f"not ready: {type(exc).__name__}"
        detail = {key.lower(): value for key, value in request.query_params.items()}.get("detail")
        if detail == "min":
            return Response(status_code=200 if available else 503)
        return xml(vosi.availability(available and state() is not State.OFFLINE, note, address(request)))

    @routes.get("/", include_in_schema=False)
    async def landing() -> Response:
        rows = "".join(
            f'<tr><td><a href="{escape(url)}/{path}">{path}</a></td><td><code>{escape(standard)}</code></td></tr>'
            for standard, path, _, _ in CAPABILITIES
        )
        return HTMLResponse(PAGE.format(resource=escape(resource), rows=rows), headers=PAGE_POLICY)

    return routes
