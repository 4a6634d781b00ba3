"""A UWS job list over HTTP (UWS 1.1 section 2.2), in the forms that OpenCADC's services give it.

Differences from the bare standard that clients rely on: single values are text/plain without a line end, changes are
answered by 303 to the job, a deletion by 303 to the list, `/error` is the text of the error and 404 without one.
"""

from collections.abc import Awaitable, Callable, Collection
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response
from voservice.responses import text, xml
from vospace_client.terms import ExecutionPhase

from vospace.models.errors import InvalidArgument, JobNotFound
from vospace.uws import documents
from vospace.uws.model import Job, format_time, is_job_id, parse_time
from vospace.uws.parameters import Parameters, read_parameters
from vospace.uws.service import JobService, Owner

Create = Callable[[Request, Owner], Awaitable[Job]]
"""Makes a job of a POST to the list, not yet started."""
OwnerOf = Callable[..., Awaitable[Owner]]
"""A dependency: the caller of a request as an owner of jobs."""


def see_other(url: str) -> RedirectResponse:
    return RedirectResponse(url, status_code=303)


def job_list(
    path: str,
    *,
    base_url: str,
    service: JobService,
    kinds: Collection[str],
    listed: Collection[str],
    owner_of: OwnerOf,
    create: Create,
) -> APIRouter:
    """Routes of one job list at `path`: jobs of `kinds` can be reached there, those of `listed` are listed.

    `base_url`: public URL above `path`, without a trailing slash."""
    router = APIRouter(tags=["jobs"])
    list_url = f"{base_url}{path}"

    def url_of(job: Job) -> str:
        return f"{list_url}/{job.id}"

    async def job_of(job_id: str, owner: Annotated[Owner, Depends(owner_of)]) -> Job:
        if not is_job_id(job_id):
            raise JobNotFound(job_id)
        job = await service.get(job_id, owner)
        if job.kind not in kinds:
            raise JobNotFound(job_id)
        return job

    async def waited(job: Job, owner: Owner, parameters: Parameters) -> Job:
        seconds = parameters.integer("WAIT")
        if seconds is None:
            return job
        phase = parameters.first("PHASE")
        return await service.wait(job.id, owner, seconds, None if phase is None else _phase(phase))

    @router.get(path, summary="List the caller's jobs")
    async def list_jobs(request: Request, owner: Annotated[Owner, Depends(owner_of)]) -> Response:
        parameters = await read_parameters(request)
        last, after = parameters.integer("LAST"), parameters.first("AFTER")
        if last is not None and last < 1:
            raise InvalidArgument("LAST must be a positive number")
        references = await service.references(
            listed,
            owner,
            [_phase(value) for value in parameters.all("PHASE")],
            None if after is None else _time("AFTER", after),
            last,
        )
        return xml(documents.job_list_document(references, list_url))

    @router.post(path, summary="Create a job; with PHASE=RUN in the query or form it starts at once")
    async def create_job(request: Request, owner: Annotated[Owner, Depends(owner_of)]) -> Response:
        job = await create(request, owner)
        return see_other(url_of(job))

    @router.get(path + "/{job_id}", summary="A job; WAIT=seconds blocks while it goes on")
    async def get_job(
        request: Request, job: Annotated[Job, Depends(job_of)], owner: Annotated[Owner, Depends(owner_of)]
    ) -> Response:
        job = await waited(job, owner, await read_parameters(request))
        return xml(documents.job_document(job))

    @router.post(path + "/{job_id}", summary="Delete (ACTION=DELETE), start, abort or change a job")
    async def post_job(request: Request, job: Annotated[Job, Depends(job_of)]) -> Response:
        parameters = await read_parameters(request)
        action = parameters.first("ACTION")
        if action is not None:
            if action.upper() != "DELETE":
                raise InvalidArgument(f"ACTION must be DELETE, not {action[:40]!r}")
            await service.delete(job)
            return see_other(list_url)
        changes = [
            _change(service, field, value)
            for field in ("destruction", "executionduration", "phase")
            if (value := parameters.first(field)) is not None
        ]
        others = parameters.without("PHASE", "DESTRUCTION", "EXECUTIONDURATION")
        if not changes and not others:
            raise InvalidArgument(
                "nothing to do: give ACTION, PHASE, DESTRUCTION, EXECUTIONDURATION or parameters"
            )
        # All was read by now, and a job that is to run runs with its new parameters.
        if others:
            job = await service.set_parameters(job, others)
        for change in changes:
            job = await change(job)
        return see_other(url_of(job))

    @router.delete(path + "/{job_id}", summary="Stop and forget a job")
    async def delete_job(job: Annotated[Job, Depends(job_of)]) -> Response:
        await service.delete(job)
        return see_other(list_url)

    @router.get(path + "/{job_id}/results/{result_id}", summary="Redirect to a result")
    async def get_result(job: Annotated[Job, Depends(job_of)], result_id: str) -> Response:
        result = job.result(result_id)
        if result is None:
            return text(f"result not found: {result_id}\n", 404)
        return see_other(result.href)

    @router.get(path + "/{job_id}/{field}", summary="One part of a job")
    async def get_field(
        request: Request,
        job: Annotated[Job, Depends(job_of)],
        owner: Annotated[Owner, Depends(owner_of)],
        field: str,
    ) -> Response:
        match field.lower():
            case "phase":
                return text((await waited(job, owner, await read_parameters(request))).phase.value)
            case "executionduration":
                return text(str(job.execution_duration))
            case "destruction":
                return text(format_time(job.destruction_time))
            case "quote":
                return text("" if job.quote is None else format_time(job.quote))
            case "owner":
                return text(job.owner or "")
            case "error":
                if job.error is None:
                    return text("no error\n", 404)
                return text(job.error.message)
            case "parameters":
                return xml(documents.parameters_document(job.parameters))
            case "results":
                return xml(documents.results_document(job.results))
        return text(f"a job has no {field[:40]}\n", 404)

    @router.post(path + "/{job_id}/{field}", summary="Change one part of a job")
    async def post_field(request: Request, job: Annotated[Job, Depends(job_of)], field: str) -> Response:
        name = field.lower()
        parameters = await read_parameters(request)
        if name == "parameters":
            await service.set_parameters(job, parameters.items)
            return see_other(url_of(job))
        if name not in ("phase", "executionduration", "destruction", "quote"):
            raise InvalidArgument(f"a job's {field[:40]} cannot be changed")
        value = parameters.first(name)
        if value is None:
            raise InvalidArgument(f"{name.upper()} is missing")
        await _change(service, name, value)(job)
        return see_other(url_of(job))

    return router


def _change(service: JobService, field: str, value: str) -> Callable[[Job], Awaitable[Job]]:
    """Return the operation for a request to change a job. Raises InvalidArgument if there is none."""
    match field:
        case "phase":
            match value.upper():
                case "RUN":
                    return service.run
                case "ABORT":
                    return service.abort
            raise InvalidArgument(f"PHASE must be RUN or ABORT, not {value[:40]!r}")
        case "executionduration":
            if not value.isdecimal() or len(value) > 9:
                raise InvalidArgument(f"EXECUTIONDURATION must be a number of seconds, not {value[:40]!r}")
            seconds = int(value)
            return lambda job: service.set_execution_duration(job, seconds)
        case "destruction":
            moment = _time("DESTRUCTION", value)
            return lambda job: service.set_destruction(job, moment)
    _time("QUOTE", value)
    return _unchanged


async def _unchanged(job: Job) -> Job:
    return job


def _phase(value: str) -> ExecutionPhase:
    try:
        return ExecutionPhase(value.upper())
    except ValueError:
        raise InvalidArgument(f"PHASE must be a UWS phase, not {value[:40]!r}") from None


def _time(name: str, value: str) -> datetime:
    try:
        return parse_time(value)
    except ValueError:
        raise InvalidArgument(f"{name} must be an ISO 8601 time, not {value[:40]!r}") from None
