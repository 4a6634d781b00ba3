"""Protection of users whose browser holds their certificate from pages of other sites and from each other's files.

A browser sends the certificate along with whatever any page asks for. It says truthfully where a request comes from
(Fetch Metadata; RFC 6454), and does with an answer what the answer's headers allow. Programs say nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SANDBOX = {"Content-Security-Policy": "sandbox"}
"""Of users' files: they are shown, and can run no script, send no form and open nothing."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
OWN = frozenset({"same-origin", "none"})
"""Values of Sec-Fetch-Site for a page of the service, and for what a person typed. Another host of the same site is
somebody else's."""
_PORTS = {"http": 80, "https": 443}

Refuse = Callable[[int, str], Response]
"""Makes the answer of a status and a reason, in the form of the service's other errors."""


def origin(url: str) -> tuple[str, str, int | None] | None:
    """Scheme, host and port of a URL or an Origin header; None for one that names none, such as ``null``."""
    try:
        parts = urlsplit(url.strip())
        if not parts.scheme or not parts.hostname:
            return None
        return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None


def is_of(content_type: str, *kinds: str) -> bool:
    """Whether a body is said to be of one of the media types *kinds*, or nothing is said.

    A page may send forms and plain text to any site; what says to be anything else, browsers ask the site about first.
    """
    kind = content_type.partition(";")[0].strip().lower()
    return not kind or kind in kinds


class BrowserGuard:
    """Refuses what changes something at the wish of another site's page, and adds `HEADERS` that an answer lacks."""

    def __init__(self, app: ASGIApp, public_url: str, refuse: Refuse) -> None:
        """Wrap *app*, whose own pages are those of the origin of *public_url*."""
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
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        where = self._foreign(Headers(scope=scope))
        scope.setdefault("state", {})["foreign"] = where is not None
        if where is not None and scope["method"] not in SAFE:
            reason = f"the request comes from a page of another site ({where})"
            await self._refuse(403, reason)(scope, receive, tell)
            return
        await self._app(scope, receive, tell)

    def _foreign(self, headers: Headers) -> str | None:
        """The header that names another site's page, if one does."""
        for site in headers.getlist("sec-fetch-site"):
            if site.strip().lower() not in OWN:
                return f"Sec-Fetch-Site: {site[:40]}"
        for source in headers.getlist("origin"):
            if origin(source) != self._own:
                return f"Origin: {source[:200]}"
        return None
