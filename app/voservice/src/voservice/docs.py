"""The interactive API page: Swagger UI, served entirely by the service itself.

FastAPI's own page loads script, style and icon from other sites, so it would be empty without Internet access.
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

# Only Swagger UI's files are used; the package's page has an inline script, which HEADERS forbids.
ASSETS = Path(str(files("fastapi_offline"))) / "static"
# With their types, which Starlette would otherwise look up in the machine's lists.
KINDS = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}

# The icon is empty, or browsers would request one from the root of the host. All other URLs are relative to the page,
# which therefore works below any path that a proxy serves it at.
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
# The document's URL is relative too.
PARAMETERS = {
    **swagger_ui_default_parameters,
    "url": "openapi.json",
    # Otherwise documents are sent to swagger.io for validation.
    "validatorUrl": None,
}
HEADERS = {
    # Swagger UI's style sheet contains its images as data URLs.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def install(app: FastAPI, prefix: str = "") -> None:
    """Serve the page at *prefix*/docs, for the document at *prefix*/openapi.json.

    To be called before routes that match any path.
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
