"""`/synctrans`, `/transfers` and `/xfer` (VOSpace 2.1 section 3.6), in Cavern's forms."""

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from voservice.responses import xml
from voservice.vosi import CERTIFICATE, TOKEN
from vospace_client.terms import BIDIRECTIONAL, PULL_FROM, PUSH_TO, VIEW_PACKAGE, ExecutionPhase

from vospace.dependencies import Context, JobOwner, context
from vospace.kinds import PACKAGE, SYNCTRANS, TRANSFERS
from vospace.models.caller import ANONYMOUS, Caller
from vospace.models.errors import Fault, InvalidArgument, JobNotFound, PermissionDenied
from vospace.package.request import check_package
from vospace.transfers.documents import Protocol, Transfer, read_transfer, write_transfer
from vospace.transfers.faults import job_text
from vospace.uws.model import ErrorSummary, Job, Result, is_job_id
from vospace.uws.parameters import Parameters, document_or_parameters, run_id, wants_run
from vospace.uws.routes import see_other
from vospace.uws.service import MAX_WAIT, Owner

MAX_DOCUMENT = 4 << 20
MAX_ANONYMOUS = 16 << 10
_NEGOTIATED = (PUSH_TO, PULL_FROM)

router = APIRouter(tags=["transfers"])
"""Routes besides the job lists; to be included before those."""


@router.get("/synctrans", summary="Negotiate a transfer by TARGET, DIRECTION and PROTOCOL")
async def get_synctrans(request: Request, owner: JobOwner) -> Response:
    """Lead to the endpoint."""
    shared = context(request)
    if not request.query_params:
        return see_other(f"{shared.settings.service_url}/transfers")
    parameters = Parameters(request.query_params.multi_items())
    if request.state.foreign and parameters.first("DIRECTION") != PULL_FROM:
        # It makes the node that is to be written.
        raise PermissionDenied("the request comes from a page of another site")
    return await _by_parameters(shared, parameters, owner)


@router.post("/synctrans", summary="Negotiate a transfer by a document, or by parameters of a form")
async def post_synctrans(request: Request, owner: JobOwner) -> Response:
    """Lead to the negotiated document, to a package, or to the endpoint."""
    shared = context(request)
    content, parameters = await document_or_parameters(request, _limit(owner))
    if content:
        return await _by_document(shared, content, owner)
    if not parameters.items:
        raise InvalidArgument("no transfer document, and no parameters")
    return await _by_parameters(shared, parameters, owner)


@router.get("/xfer/{job_id}", summary="The document of a transfer, with its endpoints")
async def get_transfer(request: Request, job_id: str, owner: JobOwner) -> Response:
    """Send what was negotiated."""
    if not is_job_id(job_id):
        raise JobNotFound(job_id)
    job = await context(request).jobs.service.get(job_id, owner)
    return xml(_details(job))


async def create(request: Request, owner: Owner) -> Job:
    """A job of POST /transfers: a document, or the parameters that stand for one."""
    shared = context(request)
    content, parameters = await document_or_parameters(request, _limit(owner))
    run, name = wants_run(parameters), run_id(parameters)
    if content:
        transfer = _check(shared, read_transfer(content.encode()))
    elif parameters.first("TARGET"):
        transfer = _check(shared, _from_parameters(parameters, owner))
        content = write_transfer(transfer).decode()
    else:
        raise InvalidArgument("no transfer document")
    if owner.name is None:
        await _negotiate_anonymously(shared, transfer)
    job = shared.jobs.service.new(TRANSFERS, owner, job_info=content, job_info_type="text/xml", run_id=name)
    job = await shared.jobs.service.create(job)
    return await shared.jobs.service.run(job) if run else job


async def _negotiate_anonymously(shared: Context, transfer: Transfer) -> None:
    """Of callers without a name nothing is kept but what they may do: read public nodes. Raises a Fault."""
    if transfer.direction != PULL_FROM:
        raise PermissionDenied(f"{transfer.direction[:100]} needs a token or a certificate")
    await shared.jobs.negotiator.negotiate(ANONYMOUS, transfer)


def _details(job: Job) -> bytes:
    """The negotiated document; as it was sent where nothing was negotiated, without endpoints if that failed."""
    details = job.checkpoint.get("details")
    if details is not None:
        return str(details).encode()
    if job.job_info is None or job.kind not in (TRANSFERS, SYNCTRANS):
        raise JobNotFound(job.id)
    transfer = read_transfer(job.job_info)
    if transfer.direction in _NEGOTIATED:
        transfer = transfer.with_protocols(())
    return write_transfer(transfer)


async def _by_document(shared: Context, content: str, owner: Owner) -> Response:
    transfer = _check(shared, read_transfer(content.encode()))
    if transfer.direction == PULL_FROM and transfer.view is not None and transfer.view.uri == VIEW_PACKAGE:
        await asyncio.to_thread(check_package, shared.space, Caller.from_record(owner.record), transfer)
        job = shared.jobs.service.new(
            PACKAGE, owner, phase=ExecutionPhase.SUSPENDED, job_info=content, job_info_type="text/xml"
        )
        await shared.jobs.service.create(job)
        return see_other(f"{shared.settings.service_url}/pkg/{job.id}/run")
    if owner.name is None:
        await _negotiate_anonymously(shared, transfer)
    if transfer.direction in _NEGOTIATED:
        job = await _negotiate(shared, owner, transfer, content)
    else:
        job = shared.jobs.service.new(SYNCTRANS, owner, job_info=content, job_info_type="text/xml")
        job = await shared.jobs.service.run(await shared.jobs.service.create(job))
        while job.phase.active and job.phase is not ExecutionPhase.EXECUTING:
            job = await shared.jobs.service.wait(job.id, owner, MAX_WAIT)
        job = await shared.jobs.service.wait(job.id, owner, MAX_WAIT)
    return see_other(f"{shared.settings.service_url}/transfers/{job.id}/results/transferDetails")


def _check(shared: Context, transfer: Transfer) -> Transfer:
    """Raises ServiceBusy for what would change something while nothing may be changed."""
    if transfer.direction != PULL_FROM:
        shared.jobs.control.require_writable()
    return transfer


async def _negotiate(shared: Context, owner: Owner, transfer: Transfer, content: str) -> Job:
    """Negotiate in the call; the job records how it went, and is EXECUTING while the client acts."""
    job = shared.jobs.service.new(
        SYNCTRANS, owner, phase=ExecutionPhase.EXECUTING, job_info=content, job_info_type="text/xml"
    )
    details = Result("transferDetails", f"{shared.settings.service_url}/xfer/{job.id}")
    try:
        found = await shared.jobs.negotiator.negotiate(Caller.from_record(owner.record), transfer)
    except Fault as fault:
        error = ErrorSummary(job_text(fault), fault.transient)
        return await shared.jobs.service.create_ended(job, ExecutionPhase.ERROR, (details,), error)
    results = [details, Result("dataNode", shared.space.naming.uri(found.path))]
    if found.link is not None:
        results.append(Result("linkNode", shared.space.naming.uri(found.link)))
    checkpoint = {"details": write_transfer(found.transfer).decode()}
    return await shared.jobs.service.create_ended(
        job, ExecutionPhase.EXECUTING, tuple(results), checkpoint=checkpoint
    )


async def _by_parameters(shared: Context, parameters: Parameters, owner: Owner) -> Response:
    transfer = _check(shared, _from_parameters(parameters, owner))
    if transfer.direction not in _NEGOTIATED:
        raise InvalidArgument(f"invalid direction: {transfer.direction[:100]}")
    found = await shared.jobs.negotiator.negotiate(Caller.from_record(owner.record), transfer)
    endpoint = found.transfer.protocols[0].endpoint or ""
    return RedirectResponse(endpoint, status_code=303)


def _limit(owner: Owner) -> int:
    return MAX_DOCUMENT if owner.name is not None else MAX_ANONYMOUS


def _from_parameters(parameters: Parameters, owner: Owner) -> Transfer:
    values: dict[str, str] = {}
    for name in ("TARGET", "DIRECTION", "PROTOCOL"):
        value = parameters.first(name)
        if not value:
            raise InvalidArgument(f"{name} is missing: TARGET, DIRECTION and PROTOCOL are needed")
        values[name] = value
    if values["DIRECTION"] == BIDIRECTIONAL:
        raise InvalidArgument("biDirectional transfers are not supported")
    protocol = values["PROTOCOL"]
    protocols = [Protocol(protocol, parameters.first("ENDPOINT"))]
    if owner.name is not None:
        protocols.append(Protocol(protocol, None, TOKEN))
        protocols.append(Protocol(protocol, None, CERTIFICATE))
    return Transfer(targets=(values["TARGET"],), direction=values["DIRECTION"], protocols=tuple(protocols))
