"""What OpenCADC's services tell every caller."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class CallerHeaders:
    """Tells callers who they are taken for, the ``username`` of a request's ``state.caller``, or how to be somebody."""

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
