"""Protection of users whose browser holds their certificate from pages of other sites and from each other's files.

A browser attaches the certificate to requests made by any page. It states truthfully which site a request comes from
(Fetch Metadata; RFC 6454), and obeys the response's security headers. Other programs do not send these headers.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SANDBOX = {"Content-Security-Policy": "sandbox"}
"""Header of users' files: they can be displayed, but not run scripts, submit forms or open windows."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_RAW = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
OWN = frozenset({"same-origin", "none"})
"""Values of Sec-Fetch-Site for the service's own pages and for typed URLs. Other hosts of the same site are not
trusted."""
_PORTS = {"http": 80, "https": 443}

Refuse = Callable[[int, str], Response]
"""Creates an error response from a status and a reason, in the format of the service."""


def origin(url: str) -> tuple[str, str, int | None] | None:
    """Return scheme, host and port of a URL or an Origin header; None if it has none, such as ``null``."""
    try:
        parts = urlsplit(url.strip())
        if not parts.scheme or not parts.hostname:
            return None
        return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None


def is_of(content_type: str, *kinds: str) -> bool:
    """Return whether a body has one of the media types *kinds*, or none.

    Pages can send forms and plain text to any site; for other types, browsers ask the site first (CORS preflight).
    """
    kind = content_type.partition(";")[0].strip().lower()
    return not kind or kind in kinds


class BrowserGuard:
    """Rejects changing requests made by pages of other sites, and adds `HEADERS` that a response lacks."""

    def __init__(self, app: ASGIApp, public_url: str, refuse: Refuse) -> None:
        """Wrap *app*, whose own pages have the origin of *public_url*."""
        self._app = app
        self._own = origin(public_url)
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; ``state.foreign`` tells handlers of a GET that changes something."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message.get("headers", ())
                given = {name for name, _ in headers}
                message["headers"] = [*headers, *(header for header in _RAW if header[0] not in given)]
            await send(message)

        where = self._foreign(Headers(scope=scope))
        scope.setdefault("state", {})["foreign"] = where is not None
        if where is not None and scope["method"] not in SAFE:
            reason = f"the request comes from a page of another site ({where})"
            await self._refuse(403, reason)(scope, receive, tell)
            return
        await self._app(scope, receive, tell)

    def _foreign(self, headers: Headers) -> str | None:
        """Return the header that identifies another site's page, if any."""
        for site in headers.getlist("sec-fetch-site"):
            if site.strip().lower() not in OWN:
                return f"Sec-Fetch-Site: {site[:40]}"
        for source in headers.getlist("origin"):
            if origin(source) != self._own:
                return f"Origin: {source[:200]}"
        return None
