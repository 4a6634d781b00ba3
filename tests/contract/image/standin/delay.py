"""How long the real services take for an answer, whatever it is: tens to hundreds of milliseconds."""

from __future__ import annotations

import asyncio
import os
import random
import re

from starlette.types import ASGIApp, Receive, Scope, Send

from standin.settings import ConfigurationError

NAME = "STANDIN_DELAY_MS"


class Delay:
    """Adds to each answer of an application the time that the environment asks for, in ms: ``100`` or ``50-300``."""

    def __init__(self, application: ASGIApp) -> None:
        self.application = application
        asked = os.environ.get(NAME, "0")
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", asked)
        if match is None:
            raise ConfigurationError(f"{NAME}: {asked!r} is neither milliseconds nor a range such as 50-300")
        self.least, self.most = int(match[1]) / 1000, int(match[2] or match[1]) / 1000

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer late."""
        if scope["type"] == "http":
            await asyncio.sleep(random.uniform(self.least, self.most))
        await self.application(scope, receive, send)
