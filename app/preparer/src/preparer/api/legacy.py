"""The two calls of SKA's own service: `POST /` and `GET /{task_id}`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from voservice.problems import Invalid

from preparer.api.body import idempotency_key
from preparer.api.context import Caller, caller, context, find
from preparer.api.submission import RSE, Item, Submission
from preparer.ledger import TaskState

router = APIRouter(tags=["staging"])

WORDS = {
    TaskState.QUEUED: "PENDING",
    TaskState.RUNNING: "STARTED",
    TaskState.SUCCEEDED: "SUCCESS",
    TaskState.FAILED: "FAILURE",
    TaskState.CANCELLED: "FAILURE",
    TaskState.LOST: "FAILURE",
}
EXAMPLE = [["testing:prepare_data_test.txt", "testing/84/1c/prepare_data_test.txt", "./testing"]]
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "array", "items": {"type": "array"}}, "example": EXAMPLE}
        },
    }
}


@router.post("/", summary="Stage files", openapi_extra=BODY)
async def submit(
    request: Request,
    who: Annotated[Caller, Depends(caller)],
    rse: Annotated[str | None, Query(description=RSE)] = None,
) -> dict[str, str]:
    """Stage the files of `[[did, path on the RSE, destination], …]`, each to a place in the user's area."""
    shared = context(request)
    key = idempotency_key(request)
    body = await shared.read_json(request, who)
    submission = Submission(shared)
    items = [_item(number, entry) for number, entry in enumerate(_list(body))]
    mounted = submission.approach(None, rse) != "cavern_api_approach"
    files = submission.check(who, items, "", rse, mounted=mounted)
    task, _ = await submission.submit(who, files, key=key)
    return {"task_id": str(task.id)}


@router.get("/{task_id}", summary="Where a task stands")
async def status(request: Request, task_id: str, who: Annotated[Caller, Depends(caller)]) -> dict[str, Any]:
    """Status of a task: PENDING, STARTED, SUCCESS or FAILURE, with what happened in `info`."""
    task = await find(request, task_id, who)
    status, info = WORDS[TaskState(task.state)], task.info
    if task.state == TaskState.RUNNING or task.not_before is not None:
        # One that waits for files on tape goes on by itself.
        waits = f"; {info}" if info else ""
        status, info = WORDS[TaskState.RUNNING], f"{task.files_done} of {task.files} files staged{waits}"
    return {"status": status, "info": info}


def _list(body: Any) -> list[Any]:
    if not isinstance(body, list):
        raise Invalid("The body must be a list of [did, path on the RSE, destination]")
    return body


def _item(number: int, entry: Any) -> Item:
    if not isinstance(entry, list) or len(entry) != 3:
        raise Invalid(
            f"/{number}: must be [did, path on the RSE, destination]",
            errors=[{"pointer": f"/{number}", "detail": "must be a list of three strings"}],
        )
    # A path must be given here: the caller's three values are checked against each other.
    return Item(entry[0], entry[1] if entry[1] is not None else 0, entry[2], pointers=("0", "1", "2"))
