"""Effect and end of a job as one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from voservice import tracing

from vospace.models.caller import Caller
from vospace.models.uri import Path
from vospace.space.space import Space
from vospace.space.write import Upload
from vospace.storage.threads import uninterrupted
from vospace.uws.executor import Run
from vospace.uws.model import Outcome


async def place(run: Run, upload: Upload, outcome: Outcome) -> None:
    """Make a staged file visible and end the job."""
    await _appear(run, upload.path, upload.stamp, upload.place, outcome)


async def move(run: Run, space: Space, caller: Caller, source: Path, final: Path, outcome: Outcome) -> None:
    """Move a node and end the job."""
    stamp = await asyncio.to_thread(space.stamp, caller, source)
    await _appear(run, final, stamp, partial(space.move, caller, source, final), outcome)


async def _appear(
    run: Run, path: Path, stamp: list[int], act: Callable[[], object], outcome: Outcome
) -> None:
    """Record which file is about to appear, make it visible and end the job; observers see one step."""
    await run.checkpoint({"path": path, "stamp": stamp})

    async def commit() -> None:
        async with run.committing() as connection:
            await asyncio.to_thread(act)
            await run.finish(connection, outcome)

    with tracing.span("commit"):
        await uninterrupted(commit)
