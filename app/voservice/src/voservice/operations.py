"""``/logControl``, by which operators list and set the levels of loggers while a service runs (OpenCADC)."""

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Annotated, Protocol

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from voservice.levels import Levels
from voservice.openapi import Operation, answer, form
from voservice.responses import text

LOG_CONTROL = "vos://cadc.nrc.ca~vospace/CADC/std/LOGGING#logControl-1.0"
"""Standard identifier of the endpoint."""
OPERATIONS = {
    "GET /logControl": Operation({200: answer("A logger and its level a line", "text/plain")}),
    "POST /logControl": Operation(
        {303: answer("To the levels")}, body=form(level="DEBUG, INFO, …", package="A logger")
    ),
}
"""OpenAPI descriptions of the endpoint."""

logger = logging.getLogger(__name__)


class LevelStore(Protocol):
    """Log levels shared by all processes of a service."""

    @property
    def levels(self) -> Levels:
        """Levels of this process."""
        ...

    async def refresh(self) -> None:
        """Apply what other processes have set."""
        ...

    async def set_levels(self, levels: Mapping[str, str], who: str) -> None:
        """Store *levels*, by logger, for all processes and apply them; *who* is the operator."""
        ...


class Operators:
    """Users and groups who may operate a service, by their names."""

    def __init__(self, names: Collection[str]) -> None:
        """Allow *names* of users, and of groups as named in tokens."""
        self._names = frozenset(names)

    def include(self, username: str, groups: Collection[str]) -> bool:
        """Return whether a user, or one of the user's groups, is an operator."""
        return username in self._names or not self._names.isdisjoint(groups)


def router(
    store: LevelStore,
    url: str,
    *,
    operator: Callable[..., Awaitable[str]],
    parameters: Callable[[Request], Awaitable[tuple[list[str], list[str]]]],
    invalid: Callable[[str], Exception],
) -> APIRouter:
    """Routes of the service at *url*.

    *operator* is a dependency that returns the caller's name, or raises if the caller is not an operator; *parameters*
    returns the values of ``level`` and ``package`` of query and form; *invalid* creates the error for invalid ones.
    """
    routes = APIRouter(tags=["operation"])
    Operator = Annotated[str, Depends(operator)]

    @routes.get("/logControl", summary="Levels of logs: a logger and its level a line")
    async def get_levels(_: Operator) -> Response:
        """Levels of this process, including those just set by another."""
        await store.refresh()
        return text(store.levels.text())

    @routes.post("/logControl", summary="Set the level of each package given, or of all")
    async def set_levels(request: Request, who: Operator) -> Response:
        """``level`` by its name in log4j, ``package`` any number of times; in the query or a form."""
        given, packages = await parameters(request)
        try:
            wanted = store.levels.check(given[0] if given else None, packages)
        except ValueError as exc:
            raise invalid(str(exc)) from None
        await store.set_levels(wanted, who)
        logger.warning("levels are set, by %s: %s", who, wanted)
        return Response(status_code=303, headers={"Location": f"{url}/logControl"})

    return routes
