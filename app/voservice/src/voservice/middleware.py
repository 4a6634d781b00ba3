"""Middleware of all services, and headers that OpenCADC's services send to every caller."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from voservice.bodies import BodyLimits
from voservice.browsers import BrowserGuard, Refuse
from voservice.config import ServiceSettings


def protect(
    app: Starlette, settings: ServiceSettings, refuse: Refuse, largest_body: int | None = None
) -> None:
    """Protect *app*; to be called before other middleware is added, so that rejections are logged too."""
    app.add_middleware(
        BodyLimits, patience=settings.body_patience, pace=settings.body_pace, largest=largest_body
    )
    app.add_middleware(BrowserGuard, public_url=settings.public_url, refuse=refuse)


class CallerHeaders:
    """Adds headers with the authenticated user (``username`` of ``state.caller``), or with ways to authenticate."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap *app*."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                caller = scope.get("state", {}).get("caller")
                if caller is not None and caller.username is not None:
                    headers["x-vo-authenticated"] = caller.username
                else:
                    headers.setdefault("www-authenticate", "Bearer")
            await send(message)

        await self._app(scope, receive, tell)
