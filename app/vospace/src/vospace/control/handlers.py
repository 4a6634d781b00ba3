"""`/logControl`, and the changes of state that are POSTed to `/availability`, as OpenCADC's services have them."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from voservice.responses import text

from vospace.control.state import Control
from vospace.models.caller import Caller
from vospace.models.errors import InvalidArgument, PermissionDenied
from vospace.uws.parameters import read_parameters
from vospace.uws.routes import see_other

CallerOf = Callable[[Request], Awaitable[Caller]]


class Operators:
    """Who may operate the service: the root owner, and the users and groups that are configured."""

    def __init__(self, words: list[str], root_uid: int) -> None:
        self._words = frozenset(words)
        self._root_uid = root_uid

    def require(self, caller: Caller) -> str:
        """The caller's name. Raises PermissionDenied."""
        if caller.username is not None and (
            caller.uid == self._root_uid
            or caller.username in self._words
            or not self._words.isdisjoint(caller.groups)
        ):
            return caller.username
        raise PermissionDenied("permission denied")


def router(control: Control, operators: Operators, url: str, caller_of: CallerOf) -> APIRouter:
    """Routes of the service at *url*. `caller_of` must answer when the service is offline too."""
    routes = APIRouter(tags=["operation"])

    @routes.get("/logControl", summary="Levels of logs: a logger and its level a line")
    async def get_levels(caller: Annotated[Caller, Depends(caller_of)]) -> Response:
        operators.require(caller)
        return text(control.levels.text())

    @routes.post("/logControl", summary="Set the level of each package given, or of all")
    async def set_levels(request: Request, caller: Annotated[Caller, Depends(caller_of)]) -> Response:
        who = operators.require(caller)
        parameters = await read_parameters(request)
        await control.set_level(parameters.first("level"), parameters.all("package"), who)
        return see_other(f"{url}/logControl")

    @routes.post("/availability", summary="Change the state: ReadWrite, ReadOnly or Offline")
    async def set_state(request: Request, caller: Annotated[Caller, Depends(caller_of)]) -> Response:
        who = operators.require(caller)
        state = (await read_parameters(request)).first("state")
        if state is None:
            raise InvalidArgument("state is missing: ReadWrite, ReadOnly or Offline")
        await control.set_state(state, who)
        return see_other(f"{url}/availability")

    return routes
