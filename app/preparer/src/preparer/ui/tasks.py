"""Tasks on the page: listed, followed, begun, and what their owners ask of them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse
from prepare_data_client.did import InvalidPath, destination
from pydantic import AwareDatetime
from voservice.problems import Invalid, Problem
from vospace_client.client import CavernError

from preparer.api import v1
from preparer.api.context import Caller, Context, context, find
from preparer.api.estimate import estimate, one_at_a_time
from preparer.api.submission import Submission
from preparer.ledger import ACTIVE, FileState, Task, TaskState
from preparer.ui.access import Form, Visitor, following, page
from preparer.ui.shown import FILE_STATES, Pace, count, file_shown, moment, size, task_shown

router = APIRouter()

TASKS = 50
"""Tasks on a page of the list, and those of the newest that are followed."""
FILES = 100
FILTERS: dict[str, list[TaskState] | None] = {
    "all": None,
    "active": list(ACTIVE),
    "done": [TaskState.SUCCEEDED],
    "failed": [TaskState.FAILED, TaskState.LOST, TaskState.CANCELLED],
}
LIFETIMES = {"": "until I delete them", "86400": "1 day", "604800": "7 days", "2592000": "30 days"}
STREAM = 600.0
"""Seconds after which a browser must ask for events anew, and so whether it is still signed in."""
QUIET = 10.0
LOOK, IDLE = 0.7, 3.0
"""Seconds between two looks into the ledger, while something is under way and while nothing is."""
LOOKED_AT = 500
"""Nodes of a user's area among which folders are sought, to choose from."""
_FILE: dict[str, Any] = dict.fromkeys(v1.FileRequest.model_fields)


@router.get("/tasks")
async def tasks(
    request: Request,
    who: Visitor,
    show: Annotated[str, Query(max_length=20)] = "all",
    before: AwareDatetime | None = None,
) -> Response:
    """List the user's tasks, the newest first; everybody's for operators."""
    show = show if show in FILTERS else "all"
    found = await context(request).ledger.list_tasks(who.owner, FILTERS[show], before, TASKS)
    return page(request).pages.render(
        "tasks.html",
        who=who,
        tasks=[(task, task_shown(task)) for task in found],
        filters=list(FILTERS),
        show=show,
        further=found[-1].created.isoformat() if len(found) == TASKS else None,
        first=before is None,
        moment=moment,
    )


@router.get("/events", dependencies=[Depends(following)])
async def follow_tasks(request: Request, who: Visitor) -> StreamingResponse:
    """Tell what happens to the newest tasks: event `task`, with what the page shows of one."""
    shared = context(request)
    paces: dict[Any, Pace] = {}

    async def look(now: float) -> tuple[list[tuple[str, Any]], bool]:
        found = await shared.ledger.list_tasks(who.owner, None, None, TASKS)
        for gone in paces.keys() - {task.id for task in found}:
            del paces[gone]
        told = [
            ("task", task_shown(task, paces.setdefault(task.id, Pace()).see(task, now))) for task in found
        ]
        return told, any(task.state in ACTIVE for task in found)

    return _stream(look)


@router.get("/tasks/{task_id}")
async def one_task(
    request: Request,
    who: Visitor,
    task_id: str,
    state: Annotated[str, Query(max_length=30)] = "",
    after: Annotated[int, Query(ge=-1, lt=2**31)] = -1,
) -> Response:
    """Show a task and its files."""
    found = await find(request, task_id, who)
    return await _task_page(request, who, found, state, after)


async def _task_page(
    request: Request,
    who: Caller,
    found: Task,
    state: str = "",
    after: int = -1,
    error: Problem | None = None,
) -> Response:
    states = _states(state)
    files = await context(request).ledger.list_files(found.id, states, after, FILES)
    finished = found.state not in ACTIVE
    mine = found.username == who.identity.username
    return page(request).pages.render(
        "task.html",
        200 if error is None else error.status,
        who=who,
        task=found,
        shown=task_shown(found),
        files=[(file, file_shown(file)) for file in files],
        states={str(known): word for known, (word, _) in FILE_STATES.items()},
        state=state if states else "",
        after=after,
        further=files[-1].number if len(files) == FILES else None,
        can_cancel=not finished and not found.cancel,
        can_retry=finished and mine and found.files_done < found.files,
        can_release=finished and found.expires is not None,
        lifetimes={seconds: words for seconds, words in LIFETIMES.items() if seconds},
        error=error,
        moment=moment,
        folder=_folder(found, files),
    )


def _folder(task: Task, files: Sequence[Any]) -> str | None:
    """Return the container that the files of the page have in common, to be looked at."""
    folders = {file.target.rpartition("/")[0] for file in files}
    return folders.pop() if len(folders) == 1 else None


def _states(state: str) -> list[FileState] | None:
    return [FileState(state)] if state in FileState.__members__.values() else None


@router.get("/tasks/{task_id}/events", dependencies=[Depends(following)])
async def follow_task(
    request: Request,
    who: Visitor,
    task_id: str,
    state: Annotated[str, Query(max_length=30)] = "",
    after: Annotated[int, Query(ge=-1, lt=2**31)] = -1,
) -> StreamingResponse:
    """Tell what happens to a task and to the files on its page: events `task` and `file`."""
    found = await find(request, task_id, who)
    shared, pace, states = context(request), Pace(), _states(state)

    async def look(now: float) -> tuple[list[tuple[str, Any]], bool]:
        task = await shared.ledger.task(found.id)
        if task is None:
            return [], False
        files = await shared.ledger.list_files(task.id, states, after, FILES)
        told = [("file", file_shown(file)) for file in files]
        return [*told, ("task", task_shown(task, pace.see(task, now)))], task.state in ACTIVE

    return _stream(look)


def _stream(look: Callable[[float], Awaitable[tuple[list[tuple[str, Any]], bool]]]) -> StreamingResponse:
    """Send what *look* finds, each time that it is not what was sent before."""

    async def events() -> AsyncIterator[str]:
        began = heard = time.monotonic()
        sent: dict[tuple[str, Any], Any] = {}
        yield "retry: 2000\n\n"
        while (now := time.monotonic()) - began < STREAM:
            told, active = await look(now)
            for name, document in told:
                key = (name, document.get("id", document.get("number")))
                if sent.get(key) != document:
                    sent[key] = document
                    heard = now
                    yield f"event: {name}\ndata: {json.dumps(document)}\n\n"
            if now - heard > QUIET:
                heard = now
                yield ": still here\n\n"
            await asyncio.sleep(LOOK if active else IDLE)

    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return StreamingResponse(events(), media_type="text/event-stream", headers=headers)


@router.get("/new")
async def new(request: Request, who: Visitor, to: Annotated[str, Query(max_length=1024)] = "") -> Response:
    """Show the form by which files are staged."""
    return await _new_page(request, who, {"destination": to or "."})


@router.post("/new")
async def stage(request: Request, who: Visitor, fields: Form) -> Response:
    """Stage the files of the form, or tell what that would take."""
    shared = context(request)
    try:
        lines, body = _request(fields)
        if fields.get("do") == "estimate":
            with one_at_a_time(shared, who):
                files = await v1.checked(shared, who, body)
                found = await estimate(shared, who, files)
            return await _new_page(request, who, fields, estimated=found)
        files = await v1.checked(shared, who, body)
        made, _ = await Submission(shared).submit(who, files, lifetime=body.lifetime)
    except Problem as exc:
        problems = _by_line(exc, lines) if isinstance(exc, Invalid) and "errors" in exc.members else []
        return await _new_page(request, who, fields, error=exc, problems=problems)
    return RedirectResponse(f"{page(request).base}/tasks/{made.id}", 303)


def _request(fields: Mapping[str, str]) -> tuple[list[int], v1.TaskRequest]:
    """Return the request of a form, and the line of each of its files. Raises `Invalid`."""
    found = [
        (number, line.strip())
        for number, line in enumerate(fields.get("dids", "").splitlines(), 1)
        if line.strip() and not line.strip().startswith("#")
    ]
    if not found:
        raise Invalid("Give at least one data identifier, such as testing:hello.txt")
    try:
        destination(fields.get("destination") or ".")
    except InvalidPath as exc:
        raise Invalid(f"Destination: {exc}") from exc
    lifetime = fields.get("lifetime", "")
    if lifetime not in LIFETIMES:
        raise Invalid("Keep: choose one of the list")
    body = v1.TaskRequest(
        files=[v1.FileRequest.model_construct(**_FILE | {"did": did}) for _, did in found],
        destination=fields.get("destination") or ".",
        rse=fields.get("rse") or None,
        lifetime=int(lifetime) if lifetime else None,
    )
    return [number for number, _ in found], body


def _by_line(exc: Invalid, lines: Sequence[int]) -> list[str]:
    """Return what is wrong with which line."""
    told = []
    for error in exc.members["errors"]:
        parts = str(error["pointer"]).split("/")
        number = int(parts[2]) if len(parts) > 2 and parts[1] == "files" and parts[2].isdecimal() else None
        where = f"Line {lines[number]}: " if number is not None and number < len(lines) else ""
        told.append(f"{where}{error['detail']}")
    return told


async def _new_page(
    request: Request,
    who: Caller,
    fields: Mapping[str, str],
    *,
    estimated: Mapping[str, Any] | None = None,
    error: Problem | None = None,
    problems: Sequence[str] = (),
) -> Response:
    shared = context(request)
    return page(request).pages.render(
        "new.html",
        200 if error is None else error.status,
        who=who,
        fields=fields,
        rses=[element.name for element in shared.settings.rses],
        folders=await _folders(shared, who),
        lifetimes=LIFETIMES,
        home=shared.settings.home_of(who.identity.username),
        estimated=estimated,
        error=error,
        problems=problems,
        most=shared.settings.preparer_max_items,
        size=size,
        count=count,
    )


async def _folders(shared: Context, who: Caller) -> list[str]:
    """Return the folders of the user's area, to choose from; none while Cavern does not answer."""
    home = shared.settings.home_of(who.identity.username)
    try:
        _, children, _ = await shared.cavern.listing(home, who.token, LOOKED_AT)
    except CavernError:
        return []
    return sorted(name for name, node in children.items() if node.kind == "ContainerNode")


async def _change(
    request: Request, who: Caller, task_id: str, change: Callable[[], Awaitable[Any]]
) -> Response:
    """Make a change of a task, and show it again; a refusal is shown above it."""
    try:
        await change()
    except Problem as exc:
        found = await find(request, task_id, who)
        return await _task_page(request, who, found, error=exc)
    return RedirectResponse(f"{page(request).base}/tasks/{task_id}", 303)


@router.post("/tasks/{task_id}/cancel")
async def cancel(request: Request, who: Visitor, task_id: str, _: Form) -> Response:
    """Cancel a task."""
    return await _change(request, who, task_id, lambda: v1.cancel(request, task_id, who))


@router.post("/tasks/{task_id}/retry")
async def retry(request: Request, who: Visitor, task_id: str, _: Form) -> Response:
    """Try the failed files of a task again."""
    return await _change(request, who, task_id, lambda: v1.retry(request, task_id, who))


@router.post("/tasks/{task_id}/release")
async def release(request: Request, who: Visitor, task_id: str, _: Form) -> Response:
    """Remove the copies that a task has staged."""
    return await _change(request, who, task_id, lambda: v1.release(request, task_id, who))


@router.post("/tasks/{task_id}/renew")
async def renew(request: Request, who: Visitor, task_id: str, fields: Form) -> Response:
    """Let the copies that a task has staged live longer."""

    async def change() -> None:
        lifetime = fields.get("lifetime", "")
        if not lifetime or lifetime not in LIFETIMES:
            raise Invalid("Keep: choose one of the list")
        await v1.renew_for(request, task_id, who, int(lifetime))

    return await _change(request, who, task_id, change)
