"""Work in threads, which goes on when the task that waits for it is cancelled.

What such work uses, a descriptor above all, may be released only after its end: a descriptor's number that was closed
is the next file's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def ended(work: asyncio.Future[Any]) -> bool:
    """Wait for the end of some work, however often the task is cancelled meanwhile; return whether it was."""
    cancelled = False
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError:
            cancelled = True
    return cancelled


async def uninterrupted(work: Callable[[], Awaitable[T]]) -> T:
    """Complete an operation even if the task is cancelled meanwhile; the cancellation is raised afterwards."""
    task = asyncio.ensure_future(work())
    if await ended(task):
        raise asyncio.CancelledError
    return task.result()


async def in_thread(act: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Call in a thread, uninterrupted, with the context of the task."""
    # Not by asyncio.to_thread, which would need a task of its own to go on.
    call = partial(copy_context().run, act, *arguments, **options)
    work = asyncio.get_running_loop().run_in_executor(None, call)
    if await ended(work):
        raise asyncio.CancelledError
    return work.result()
