"""Changes of the service's state, POSTed to `/availability` as OpenCADC's services have them."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from vospace.control.state import Control
from vospace.models.errors import InvalidArgument
from vospace.uws.parameters import read_parameters
from vospace.uws.routes import see_other

OperatorOf = Callable[[Request], Awaitable[str]]


async def log_parameters(request: Request) -> tuple[list[str], list[str]]:
    """Return the values of `level` and `package`, of the query and the form. Raises InvalidArgument."""
    parameters = await read_parameters(request)
    return parameters.all("level"), parameters.all("package")


def router(control: Control, url: str, operator: OperatorOf) -> APIRouter:
    """Routes of the service at *url*."""
    routes = APIRouter(tags=["operation"])

    @routes.post("/availability", summary="Change the state: ReadWrite, ReadOnly or Offline")
    async def set_state(request: Request, who: Annotated[str, Depends(operator)]) -> Response:
        state = (await read_parameters(request)).first("state")
        if state is None:
            raise InvalidArgument("state is missing: ReadWrite, ReadOnly or Offline")
        await control.set_state(state, who)
        return see_other(f"{url}/availability")

    return routes
