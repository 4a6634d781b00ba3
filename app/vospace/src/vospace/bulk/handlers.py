"""`/bulk-pull`: the request that makes a job, and its results as they come."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from voservice.browsers import is_of

from vospace.bodies import Arrivals
from vospace.bulk.request import RequestReader
from vospace.bulk.tables import ROWS_CHANNEL
from vospace.dependencies import JobOwner, context
from vospace.jobs import Jobs
from vospace.kinds import BULK
from vospace.models.errors import (
    InvalidArgument,
    JobNotFound,
    PermissionDenied,
    UnsupportedMediaType,
)
from vospace.uws.model import Job, Parameter, is_job_id
from vospace.uws.parameters import Parameters, run_id, wants_run
from vospace.uws.service import Owner
from vospace.uws.tables import PHASE_CHANNEL

LINES = 1000
RECHECK = 20.0
COPY_ROWS = 5000

router = APIRouter(tags=["bulk pull"])


@router.get(
    "/bulk-pull/{job_id}/results/files",
    summary="What became of each file, a line of JSON each, as they finish",
    responses={200: {"content": {"application/x-ndjson": {}}}},
)
async def get_files(request: Request, job_id: str, owner: JobOwner) -> Response:
    """Send what has ended, and unless told otherwise what ends from now on."""
    shared = context(request)
    if not is_job_id(job_id):
        raise JobNotFound(job_id)
    job = await shared.jobs.service.get(job_id, owner)
    if job.kind != BULK:
        raise JobNotFound(job_id)
    parameters = Parameters(request.query_params.multi_items())
    after = parameters.integer("from") or 0
    if not 0 <= after < 1 << 31:
        raise InvalidArgument("from must be the number of an event")
    follow = (parameters.first("follow") or "true").lower() != "false"
    return StreamingResponse(
        _lines(shared.jobs, job.id, after, follow),
        media_type="application/x-ndjson",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def create(request: Request, owner: Owner) -> Job:
    """A job of a POST: nothing of it exists until the whole request was read and found good."""
    shared = context(request)
    shared.jobs.control.require_writable()
    if owner.name is None:
        raise PermissionDenied("a bulk pull needs a token or a certificate")
    kind = request.headers.get("content-type", "")
    if not is_of(kind, "application/json"):
        raise UnsupportedMediaType(
            f"Content-Type: the request must be sent as application/json, not as {kind[:80]}"
        )
    query = Parameters(request.query_params.multi_items())
    run, name = wants_run(query), run_id(query)
    settings = shared.settings
    arrivals: Arrivals = request.app.state.arrivals
    reader = RequestReader(settings.vospace_bulk_max_rows)
    async with arrivals.spooled(request, settings.vospace_bulk_max_bytes) as body:
        job = replace(shared.jobs.service.new(BULK, owner, run_id=name), size=body.size)
        async with shared.jobs.rows.creating(job) as writer:
            async for block in body.blocks():
                reader.feed(block)
                if reader.pending >= COPY_ROWS:
                    await writer.write(reader.take())
            reader.end()
            await writer.write(reader.take())
            writer.parameters = (
                Parameter("rows", str(reader.count)),
                Parameter("if_exists", reader.if_exists.value),
                Parameter("concurrency", str(reader.concurrency or settings.vospace_bulk_concurrency)),
            )
    return await shared.jobs.service.run(job) if run else job


async def _lines(jobs: Jobs, job_id: str, after: int, follow: bool) -> AsyncIterator[bytes]:
    with jobs.service.notices.subscribe(job_id, ROWS_CHANNEL, PHASE_CHANNEL) as changed:
        while True:
            phase = await jobs.service.store.phase(job_id)
            more = True
            while more and (lines := await jobs.rows.results(job_id, after, LINES)):
                more = len(lines) == LINES
                after = int(lines[-1]["event"])
                yield "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines).encode()
            if not follow or phase is None or phase.final:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(RECHECK):
                    await changed.wait()
            changed.clear()
