"""`/pkg/{job}/run`: the download of a package that was asked for at `/synctrans`."""

import logging
from collections.abc import AsyncIterator, Iterator

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import iterate_in_threadpool
from voservice.browsers import SANDBOX
from voservice.jobs import LeaseLost
from vospace_client.terms import ExecutionPhase

from vospace.dependencies import JobOwner, context
from vospace.kinds import PACKAGE
from vospace.models.caller import Caller
from vospace.models.errors import InvalidArgument, JobNotFound, ServiceBusy, TooManyRequests
from vospace.package.archive import TAR, packed
from vospace.package.request import read_package
from vospace.storage.threads import uninterrupted
from vospace.transfers.documents import read_transfer
from vospace.uws.executor import Executor
from vospace.uws.model import ErrorSummary, Job, Outcome, is_job_id

logger = logging.getLogger(__name__)

router = APIRouter(tags=["packages"])


@router.get("/pkg/{job_id}/run", summary="Download a package, once")
async def run_package(request: Request, job_id: str, owner: JobOwner) -> Response:
    """Send what was asked for, packed while it is sent."""
    shared = context(request)
    if not is_job_id(job_id):
        raise JobNotFound(job_id)
    job = await shared.jobs.service.get(job_id, owner)
    if job.kind != PACKAGE:
        raise JobNotFound(job_id)
    if job.phase is not ExecutionPhase.SUSPENDED:
        raise InvalidArgument(f"the package is {job.phase}: ask for a new one")
    executor, most = shared.jobs.executor, shared.settings.vospace_user_packages
    if executor is None:
        raise ServiceBusy("the service is starting or stopping")
    if await shared.jobs.service.store.running(PACKAGE, job.owner) >= most:
        whose = "of yours" if job.owner else "of callers without a name"
        raise TooManyRequests(f"{most} packages {whose} are on their way: wait for the end of one")
    kind, paths = read_package(shared.space, read_transfer(job.job_info or ""))
    caller = Caller.from_record(job.caller)
    prefix = shared.settings.service_path.strip("/").replace("/", "-")
    name = paths[0][-1] if len(paths) == 1 and paths[0] else job.id
    headers = SANDBOX | {"Content-Disposition": f"inline;filename={_file_name(prefix, name, kind)}"}
    blocks = packed(shared.space, caller, paths, kind)
    return StreamingResponse(_stream(executor, job, blocks), media_type=kind, headers=headers)


async def _stream(executor: Executor, job: Job, blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async with executor.holding(job) as run:
            outcome = Outcome(
                ExecutionPhase.ERROR,
                error=ErrorSummary("TransferFailed: the download was interrupted", True),
            )
            try:
                async for block in iterate_in_threadpool(blocks):
                    if block:
                        yield block
                outcome = Outcome()
            except OSError as error:
                logger.warning("package %s broke: %s", job.id, error)
                outcome = Outcome(ExecutionPhase.ERROR, error=ErrorSummary(f"TransferFailed: {error}", True))
                raise
            finally:
                await uninterrupted(lambda: run.end(outcome))
    except LeaseLost:
        raise InvalidArgument("the package is being downloaded already") from None


def _file_name(prefix: str, name: str, kind: str) -> str:
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-+") else "_" for c in name)
    return f"{prefix}-download-{plain}.{'tar' if kind == TAR else 'zip'}"
