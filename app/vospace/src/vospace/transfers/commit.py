"""Effect and end of a job as one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from vospace.services.space import Upload
from vospace.uws.executor import Run
from vospace.uws.model import Outcome

T = TypeVar("T")


async def place(run: Run, upload: Upload, outcome: Outcome) -> None:
    """Note what is about to appear, make it appear, end the job: as one, as far as anyone can see."""
    await run.checkpoint({"path": upload.path, "stamp": upload.stamp})

    async def commit() -> None:
        async with run.committing() as connection:
            await asyncio.to_thread(upload.place)
            await run.finish(connection, outcome)

    await uninterrupted(commit)


async def uninterrupted(work: Callable[[], Awaitable[T]]) -> T:
    """Do something to its end even if the task is cancelled meanwhile; the cancellation comes afterwards."""
    task = asyncio.ensure_future(work())
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
