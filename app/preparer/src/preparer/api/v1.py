"""Version 1 of the API: tasks, their files, events and estimates."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from voservice.problems import Conflict, Invalid, TooMany

from preparer.api.body import idempotency_key
from preparer.api.context import Caller, Context, caller, context, find
from preparer.api.estimate import estimate, one_at_a_time
from preparer.api.resolution import is_resolved, resolve
from preparer.api.submission import RSE, Item, Submission, request_hash
from preparer.ledger import ACTIVE, FileState, NewFile, SameUnderWay, TaskState
from preparer.ledger.documents import file_document, task_document

M = TypeVar("M", bound=BaseModel)
router = APIRouter(prefix="/v1", tags=["version 1"])
Who = Annotated[Caller, Depends(caller)]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_SIZE = 2**63 - 1
MAX_LIFETIME = 10 * 366 * 86_400
"""Ten years: a copy that is to stay longer needs none."""


class FileRequest(BaseModel):
    """One file to stage."""

    model_config = ConfigDict(extra="forbid", strict=True)

    did: str = Field(
        description="Data identifier of a file; with Rucio, of a dataset or container too",
        examples=["testing:prepare_data_test.txt"],
    )
    path: str | None = Field(None, description="Path on the RSE; Rucio's deterministic one by default")
    destination: str | None = Field(None, description="Directory in the user's area, if not the request's")
    size: int | None = Field(None, ge=0, le=MAX_SIZE, description="Expected size in bytes")
    md5: str | None = Field(None, description="Expected MD5, 32 hexadecimal digits")
    adler32: str | None = Field(None, description="Expected Adler-32, 8 hexadecimal digits")


class TaskRequest(BaseModel):
    """Files to stage, and how."""

    model_config = ConfigDict(extra="forbid", strict=True)

    files: list[FileRequest]
    destination: str = Field(".", description="Directory relative to the user's area")
    approach: str | None = Field(None, description="Way of staging, if not the site's default")
    rse: str | None = Field(None, description=RSE)
    callback: str | None = Field(None, description="URL that is told when the task ends")
    lifetime: int | None = Field(
        None, ge=60, le=MAX_LIFETIME, description="Seconds after which staged copies are removed"
    )


class Lifetime(BaseModel):
    """A new lifetime."""

    model_config = ConfigDict(extra="forbid", strict=True)

    lifetime: int = Field(ge=60, le=MAX_LIFETIME, description="Seconds from now")


def schema(model: type[BaseModel]) -> dict[str, Any]:
    """Describe the body of a request in the OpenAPI document."""
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": model.model_json_schema()}},
        }
    }


async def parse(request: Request, who: Caller, model: type[M]) -> M:
    """Read and validate a body. Raises `Invalid`."""
    body = await context(request).read_json(request, who)
    try:
        return model.model_validate(body)
    except ValidationError as exc:
        errors = [
            {"pointer": "/" + "/".join(map(str, e["loc"])), "detail": e["msg"]} for e in exc.errors()[:20]
        ]
        raise Invalid(f"{errors[0]['pointer']}: {errors[0]['detail']}", errors=errors) from exc


def requested(body: TaskRequest) -> list[Item]:
    """Return the items of a request."""
    return [
        Item(f.did, f.path, f.destination or body.destination, f.size, f.md5, f.adler32) for f in body.files
    ]


async def checked(shared: Context, who: Caller, body: TaskRequest) -> list[NewFile]:
    """Return the files of a request, which Rucio resolves. Raises `Invalid` unless every one is valid."""
    submission = Submission(shared)
    mounted = submission.approach(body.approach, body.rse) != "cavern_api_approach"
    items = await resolve(shared, who, requested(body), submission.rses(body.rse), mounted=mounted)
    return submission.check(who, items, "/files", body.rse, mounted=mounted)


@router.post("/tasks", status_code=201, summary="Stage files", openapi_extra=schema(TaskRequest))
async def submit(request: Request, who: Who) -> JSONResponse:
    """Stage files. 200 instead of 201 where the same request is under way already, or its Idempotency-Key is known."""
    shared = context(request)
    key = idempotency_key(request)
    body = await parse(request, who, TaskRequest)
    submission = Submission(shared)
    username, content = who.identity.username, None
    known = None
    if is_resolved(shared, items := requested(body)):
        # What was requested already, or cannot be now, is not asked of Rucio.
        approach = submission.approach(body.approach, body.rse)
        content = request_hash(items, body.rse, approach, body.callback, body.lifetime)
        known = await submission.known(username, content, key)
        if known is None and await submission.is_full(username):
            raise submission.full()
    if known is not None:
        task, created = known, False
    else:
        task, created = await submission.submit(
            who,
            await checked(shared, who, body),
            approach=body.approach,
            callback=body.callback,
            lifetime=body.lifetime,
            key=key,
            content=content,
        )
    location = f"{shared.settings.api_root_path}/v1/tasks/{task.id}"
    return JSONResponse(task_document(task), 201 if created else 200, {"Location": location})


@router.get("/tasks", summary="List tasks")
async def list_tasks(
    request: Request,
    who: Who,
    state: Annotated[list[TaskState] | None, Query(description="Only tasks in these states")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Most tasks in one answer")] = 100,
    before: Annotated[AwareDatetime | None, Query(ge=EPOCH, description="The former answer's next")] = None,
) -> dict[str, Any]:
    """Tasks of the caller, the newest first; of everybody for operators."""
    found = await context(request).ledger.list_tasks(who.owner, state, before, limit)
    following = found[-1].created.isoformat() if len(found) == limit else None
    return {"tasks": [task_document(task) for task in found], "next": following}


@router.get("/tasks/{task_id}", summary="One task")
async def task(request: Request, task_id: str, who: Who) -> dict[str, Any]:
    """Where a task stands."""
    return task_document(await find(request, task_id, who))


@router.get("/tasks/{task_id}/files", summary="Files of a task")
async def list_files(
    request: Request,
    task_id: str,
    who: Who,
    state: Annotated[list[FileState] | None, Query(description="Only files in these states")] = None,
    limit: Annotated[int, Query(ge=1, le=10_000, description="Most files in one answer")] = 1000,
    after: Annotated[int, Query(ge=-1, lt=2**31, description="The former answer's next")] = -1,
) -> dict[str, Any]:
    """What became of every file."""
    found = await find(request, task_id, who)
    files = await context(request).ledger.list_files(found.id, state, after, limit)
    following = files[-1].number if len(files) == limit else None
    return {"files": [file_document(file) for file in files], "next": following}


@router.post("/tasks/{task_id}/cancel", status_code=202, summary="Cancel a task")
async def cancel(request: Request, task_id: str, who: Who) -> dict[str, Any]:
    """End a task, and the transfers underneath; files that are staged by then stay."""
    found = await find(request, task_id, who)
    if found.state not in ACTIVE:
        raise Conflict(f"The task has ended: {found.state}")
    await context(request).ledger.cancel(found.id)
    return task_document(await find(request, task_id, who))


@router.post("/tasks/{task_id}/retry", status_code=202, summary="Try failed files again")
async def retry(request: Request, task_id: str, who: Who) -> dict[str, Any]:
    """Try the failed and cancelled files of a finished task again; the others are left as they are."""
    shared = context(request)
    found = await find(request, task_id, who)
    if found.state in ACTIVE:
        raise Conflict(f"The task has not ended: {found.state}")
    if found.username != who.identity.username:
        raise Conflict("Only the task's owner can retry it: files are staged with the owner's credential")
    token, expires = await Submission(shared).credential(who)
    try:
        again = await shared.ledger.retry(found.id, shared.vault.encrypt(token), expires)
    except SameUnderWay as exc:
        raise Conflict("The same request is under way as another task; follow that one") from exc
    if not again:
        raise Conflict("No file of the task failed")
    shared.outbox.notify()
    return task_document(await find(request, task_id, who))


@router.post("/tasks/{task_id}/release", status_code=202, summary="Remove staged copies")
async def release(request: Request, task_id: str, who: Who) -> dict[str, Any]:
    """Remove the copies that a task with a lifetime staged, now instead of at its end."""
    found = await find(request, task_id, who)
    if found.state in ACTIVE or found.expires is None:
        raise Conflict("Only a finished task with a lifetime has copies to release")
    await context(request).ledger.expire_now(found.id)
    return task_document(await find(request, task_id, who))


@router.post("/tasks/{task_id}/renew", summary="Renew the lifetime", openapi_extra=schema(Lifetime))
async def renew(request: Request, task_id: str, who: Who) -> dict[str, Any]:
    """Let staged copies live longer."""
    await find(request, task_id, who)
    body = await parse(request, who, Lifetime)
    return await renew_for(request, task_id, who, body.lifetime)


async def renew_for(request: Request, task_id: str, who: Caller, lifetime: int) -> dict[str, Any]:
    """Let the copies of a task live for *lifetime* seconds from now."""
    shared = context(request)
    found = await find(request, task_id, who)
    if found.state in ACTIVE or found.expires is None:
        raise Conflict("Only a finished task with a lifetime can be renewed")
    Submission(shared).check_lifetime(lifetime, found.credential_expires)
    await shared.ledger.renew_lifetime(found.id, lifetime)
    return task_document(await find(request, task_id, who))


async def event_stream(request: Request, who: Who) -> AsyncIterator[None]:
    """Count a user's open streams until the response has ended: each asks the ledger twice a second."""
    shared, username = context(request), who.identity.username
    most = shared.settings.preparer_user_events
    if shared.following[username] >= most:
        raise TooMany(
            f"At most {most} event streams of one user (preparer_user_events); close one, or ask for the task itself",
            headers={"Retry-After": "5"},
        )
    shared.following[username] += 1
    try:
        yield
    finally:
        shared.following[username] -= 1
        if not shared.following[username]:
            del shared.following[username]


@router.get("/tasks/{task_id}/events", summary="Follow a task", dependencies=[Depends(event_stream)])
async def events(request: Request, task_id: str, who: Who) -> StreamingResponse:
    """Server-sent events: `progress` whenever the task changes, `final` once, at its end."""
    found = await find(request, task_id, who)

    async def stream() -> AsyncIterator[str]:
        last = ""
        idle = 0
        current: Any = found
        while current is not None:
            document = json.dumps(task_document(current))
            if document != last:
                last, idle = document, 0
                name = "progress" if current.state in ACTIVE else "final"
                yield f"event: {name}\ndata: {document}\n\n"
                if name == "final":
                    return
            elif (idle := idle + 1) % 30 == 0:
                # A comment keeps proxies from taking silence for the end.
                yield ": still here\n\n"
            await asyncio.sleep(0.5)
            current = await context(request).ledger.task(current.id)

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@router.post("/estimate", summary="Estimate before staging", openapi_extra=schema(TaskRequest))
async def estimate_request(request: Request, who: Who) -> dict[str, Any]:
    """Bytes still to stage, files in place already, what is missing on the RSE, the quota that is left, the time."""
    shared = context(request)
    with one_at_a_time(shared, who):
        body = await parse(request, who, TaskRequest)
        return await estimate(shared, who, await checked(shared, who, body))
