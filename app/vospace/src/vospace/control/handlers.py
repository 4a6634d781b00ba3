"""Changes of the service's state, POSTed to `/availability` as OpenCADC's services have them."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from vospace.dependencies import Operator, context
from vospace.models.errors import InvalidArgument
from vospace.uws.parameters import read_parameters
from vospace.uws.routes import see_other

router = APIRouter(tags=["operation"])


async def log_parameters(request: Request) -> tuple[list[str], list[str]]:
    """Return the values of `level` and `package`, of the query and the form. Raises InvalidArgument."""
    parameters = await read_parameters(request)
    return parameters.all("level"), parameters.all("package")


@router.post("/availability", summary="Change the state: ReadWrite, ReadOnly or Offline")
async def set_state(request: Request, who: Operator) -> Response:
    """Change the state of all processes."""
    shared = context(request)
    state = (await read_parameters(request)).first("state")
    if state is None:
        raise InvalidArgument("state is missing: ReadWrite, ReadOnly or Offline")
    await shared.jobs.control.set_state(state, who)
    return see_other(f"{shared.settings.service_url}/availability")
