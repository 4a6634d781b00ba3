"""The page that shows an API to people: Swagger UI, of which every part comes from the service itself.

FastAPI's own page takes script, style and icon from other sites: a network without Internet would see an empty page.
"""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI
from fastapi.openapi.docs import swagger_ui_default_parameters
from fastapi.staticfiles import StaticFiles
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

# Of the package only Swagger UI's files: its page has a script in itself, which HEADERS forbids.
ASSETS = Path(str(files("fastapi_offline"))) / "static"
# With their types, which Starlette would take from the machine's lists.
KINDS = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}

# The icon is empty, or a browser would ask the root of the host for one. All else is named relative to the page, which
# so works below whatever path a proxy serves it.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
# The document's name is relative too.
PARAMETERS = {
    **swagger_ui_default_parameters,
    "url": "openapi.json",
    # Else documents go to swagger.io to be validated.
    "validatorUrl": None,
}
HEADERS = {
    # Swagger UI has its pictures in its style sheet, as data.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def install(app: FastAPI, prefix: str = "") -> None:
    """Serve the page at *prefix*/docs, for the document at *prefix*/openapi.json.

    To be called before routes that take any path.
    """
    if app.docs_url is not None or app.openapi_url != f"{prefix}/openapi.json":
        raise ValueError(f"docs: give FastAPI docs_url=None and openapi_url={prefix + '/openapi.json'!r}")
    static = StaticFiles(directory=ASSETS)
    page = PAGE.format(title=escape(app.title))
    start = f"SwaggerUIBundle({json.dumps(PARAMETERS)});\n"

    async def show(_: Request) -> Response:
        return HTMLResponse(page, headers=HEADERS)

    async def begin(_: Request) -> Response:
        return Response(start, media_type="text/javascript", headers=HEADERS)

    async def asset(request: Request) -> Response:
        name = Path(request.url.path).name
        answer = await static.get_response(name, request.scope)
        answer.headers.update({**HEADERS, "Content-Type": KINDS[name]})
        return answer

    app.add_route(f"{prefix}/docs", show, include_in_schema=False)
    app.add_route(f"{prefix}/docs/start.js", begin, include_in_schema=False)
    for name in KINDS:
        app.add_route(f"{prefix}/docs/{name}", asset, include_in_schema=False)
