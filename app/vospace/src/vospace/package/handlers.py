"""`/pkg/{job}/run`: the download of a package that was asked for at `/synctrans`."""

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import iterate_in_threadpool
from voservice.browsers import SANDBOX
from voservice.jobs import LeaseLost
from vospace_client.terms import ExecutionPhase

from vospace.models.caller import Caller
from vospace.models.errors import InvalidArgument, JobNotFound, ServiceBusy, TooManyRequests
from vospace.package.archive import TAR, packed
from vospace.package.request import read_package
from vospace.space.space import Space
from vospace.transfers.commit import uninterrupted
from vospace.transfers.documents import read_transfer
from vospace.uws.executor import Executor, Run
from vospace.uws.model import ErrorSummary, Job, JobFailure, Outcome, is_job_id
from vospace.uws.routes import OwnerOf
from vospace.uws.service import JobService, Owner

KIND = "pkg"
logger = logging.getLogger(__name__)


class PackageHandlers:
    """Requests for packages."""

    def __init__(
        self,
        space: Space,
        jobs: JobService,
        executor: Callable[[], Executor | None],
        owner_of: OwnerOf,
        prefix: str,
        most: int,
    ) -> None:
        """`prefix`: what the names of downloads begin with; `most`: downloads of one user at a time."""
        self._space = space
        self._jobs = jobs
        self._executor = executor
        self._owner_of = owner_of
        self._prefix = prefix
        self._most = most

    def router(self) -> APIRouter:
        router = APIRouter(tags=["packages"])
        owner_of = self._owner_of

        @router.get("/pkg/{job_id}/run", summary="Download a package, once")
        async def run_package(job_id: str, owner: Annotated[Owner, Depends(owner_of)]) -> Response:
            if not is_job_id(job_id):
                raise JobNotFound(job_id)
            job = await self._jobs.get(job_id, owner)
            if job.kind != KIND:
                raise JobNotFound(job_id)
            if job.phase is not ExecutionPhase.SUSPENDED:
                raise InvalidArgument(f"the package is {job.phase}: ask for a new one")
            executor = self._executor()
            if executor is None:
                raise ServiceBusy("the service is starting or stopping")
            if await self._jobs.store.running(KIND, job.owner) >= self._most:
                whose = "of yours" if job.owner else "of callers without a name"
                raise TooManyRequests(
                    f"{self._most} packages {whose} are on their way: wait for the end of one"
                )
            kind, paths = read_package(self._space, read_transfer(job.job_info or ""))
            caller = Caller.from_record(job.caller)
            name = paths[0][-1] if len(paths) == 1 and paths[0] else job.id
            headers = SANDBOX | {
                "Content-Disposition": f"inline;filename={_file_name(self._prefix, name, kind)}"
            }
            blocks = packed(self._space, caller, paths, kind)
            return StreamingResponse(self._stream(executor, job, blocks), media_type=kind, headers=headers)

        return router

    async def _stream(self, executor: Executor, job: Job, blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
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
                    outcome = Outcome(
                        ExecutionPhase.ERROR, error=ErrorSummary(f"TransferFailed: {error}", True)
                    )
                    raise
                finally:
                    await uninterrupted(lambda: run.end(outcome))
        except LeaseLost:
            raise InvalidArgument("the package is being downloaded already") from None


async def interrupted(run: Run) -> Outcome:
    """End a download whose process died."""
    raise JobFailure("TransferFailed: the service stopped during the download", transient=True)


def _file_name(prefix: str, name: str, kind: str) -> str:
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-+") else "_" for c in name)
    return f"{prefix}-download-{plain}.{'tar' if kind == TAR else 'zip'}"
