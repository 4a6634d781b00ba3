"""Pages for people: their templates, their looks, and the headers under which a browser shows them.

Pages are rendered by the service and can be read without scripts. The scripts are a few modules of this project's own,
which follow what happens and send files: that takes less code than a framework, and no build step. A page may load
scripts and styles from its service's own assets alone: not from other sites, nor from elsewhere on this one, where
users' files are served.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

LOOKS = Path(__file__).parent / "assets"
"""The style that all pages share."""
KINDS = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    # With `no-referrer`, browsers would not say where a form comes from either (Fetch, "append a request `Origin`").
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class Assets:
    """Scripts and styles of a service's pages, in a directory whose name changes with their content."""

    def __init__(self, *directories: Path) -> None:
        """Take all files of *directories*."""
        found = sorted(file for directory in directories for file in directory.iterdir())
        self._files = {
            file.name: (file.read_bytes(), KINDS[file.suffix]) for file in found if file.suffix in KINDS
        }
        digest = hashlib.sha256()
        for name, (content, _) in self._files.items():
            digest.update(f"{name} {len(content)} ".encode() + content)
        self.path = f"assets/{digest.hexdigest()[:16]}"
        """Path of the directory, relative to that of the pages, without slashes at its ends."""

    def router(self) -> APIRouter:
        """Return the routes by which they are served, relative to the path of the pages."""
        router = APIRouter(include_in_schema=False)

        @router.get(f"/{self.path}/{{name}}")
        async def asset(name: str) -> Response:
            if name not in self._files:
                return Response(status_code=404)
            content, kind = self._files[name]
            return Response(
                content,
                headers={
                    "Content-Type": kind,
                    "Cache-Control": "public, max-age=31536000, immutable",
                    "X-Content-Type-Options": "nosniff",
                },
            )

        return router


class Pages:
    """Renders the templates of a package."""

    def __init__(self, package: str, assets: Assets, url: str) -> None:
        """Serve pages below *url*, with the templates in the directory ``templates`` of *package*."""
        self.url = url.rstrip("/")
        self.assets = f"{self.url}/{assets.path}"
        self.environment = Environment(
            loader=PackageLoader(package),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.environment.globals["assets"] = self.assets

    def policy(self, forms: Iterable[str] = ()) -> str:
        """Return the content security policy; forms may lead to the origins *forms* besides the own one."""
        return "; ".join(
            (
                "default-src 'none'",
                f"script-src {self.assets}/",
                f"style-src {self.assets}/",
                "img-src 'self' data:",
                "connect-src 'self'",
                " ".join(("form-action 'self'", *forms)),
                "base-uri 'none'",
                "frame-ancestors 'none'",
                "require-trusted-types-for 'script'",
                "trusted-types 'none'",
            )
        )

    def render(
        self,
        template: str,
        status: int = 200,
        *,
        forms: Iterable[str] = (),
        headers: Mapping[str, str] | None = None,
        **values: Any,
    ) -> Response:
        """Return a page; whatever is put into a template is escaped."""
        text = self.environment.get_template(template).render(values)
        own = {**HEADERS, "Content-Security-Policy": self.policy(forms)}
        return HTMLResponse(text, status, {**own, **(headers or {})})
