"""Which methods a path has, for the header `Allow` (RFC 9110 section 15.5.6): several routes may share a path, and the
router tells of one only."""

from __future__ import annotations

import re

from fastapi import APIRouter, FastAPI
from starlette.routing import compile_path


class Methods:
    """Adds routers to an application below a prefix, and remembers what they answer."""

    def __init__(self, app: FastAPI, prefix: str) -> None:
        self._app = app
        self._prefix = prefix
        self._known: list[tuple[re.Pattern[str], frozenset[str]]] = []

    def include(self, router: APIRouter) -> None:
        self._app.include_router(router, prefix=self._prefix)
        for route in router.routes:
            path, methods = getattr(route, "path", None), getattr(route, "methods", None)
            if path is not None and methods:
                self._known.append((compile_path(self._prefix + path)[0], frozenset(methods)))

    def of(self, path: str) -> list[str]:
        """Methods of a decoded path, in alphabetical order."""
        found = (methods for pattern, methods in self._known if pattern.match(path))
        return sorted(frozenset().union(*found))
