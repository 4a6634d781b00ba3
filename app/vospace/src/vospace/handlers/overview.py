"""Capabilities of the service (VOSI 1.1), and a page that lists them to browsers."""

from html import escape

from fastapi import APIRouter
from fastapi.responses import HTMLResponse
from voservice import operations, vosi
from vospace_client import terms

EVERYBODY = (vosi.ANONYMOUS, vosi.CERTIFICATE, vosi.TOKEN)
KNOWN = (vosi.CERTIFICATE, vosi.TOKEN)
OPEN = (vosi.ANONYMOUS,)

# Standard, path, how the URL is used, who may call: in the order of Cavern's own document.
CAPABILITIES: list[tuple[str, str, str, tuple[str, ...]]] = [
    (vosi.CAPABILITIES_ID, "capabilities", "full", OPEN),
    (vosi.AVAILABILITY_ID, "availability", "full", OPEN),
    (terms.NODES, "nodes", "base", EVERYBODY),
    (terms.FILES, "files", "base", EVERYBODY),
    (terms.TRANSFERS, "transfers", "full", EVERYBODY),
    (terms.SYNCTRANS, "synctrans", "full", EVERYBODY),
    (terms.PACKAGE, "pkg", "full", EVERYBODY),
    (terms.RECURSIVE_PROPERTIES, "async-setprops", "full", KNOWN),
    (terms.RECURSIVE_DELETE, "async-delete", "full", KNOWN),
    (terms.BULK_PULL, "bulk-pull", "full", KNOWN),
    (operations.LOG_CONTROL, "logControl", "full", KNOWN),
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


def capabilities(url: str) -> list[vosi.Capability]:
    """Return the capabilities of a service at *url*."""
    return [
        vosi.Capability(standard, f"{url}/{path}", "base" if use == "base" else "full", methods)
        for standard, path, use, methods in CAPABILITIES
    ]


def router(resource: str, url: str) -> APIRouter:
    """The page of the service at *url*, whose identifier is *resource*."""
    routes = APIRouter()
    rows = "".join(
        f'<tr><td><a href="{escape(url)}/{path}">{path}</a></td><td><code>{escape(standard)}</code></td></tr>'
        for standard, path, _, _ in CAPABILITIES
    )
    page = PAGE.format(resource=escape(resource), rows=rows)

    @routes.get("/", include_in_schema=False)
    async def overview() -> HTMLResponse:
        return HTMLResponse(page, headers=PAGE_POLICY)

    return routes
