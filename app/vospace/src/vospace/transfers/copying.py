"""Copies within the space: a file is staged like any other, a container is built under a reserved name."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import ExitStack, suppress
from typing import Any, TypeVar

from vospace.models.caller import Caller
from vospace.models.errors import InvalidArgument, NodeNotFound
from vospace.models.uri import Path
from vospace.space.space import Space
from vospace.space.write import Upload
from vospace.storage.threads import ended, in_thread
from vospace.storage.tree import Kind
from vospace.transfers.commit import move, place
from vospace.uws.executor import Run
from vospace.uws.model import Outcome

T = TypeVar("T")


class Copier:
    """Copies nodes with their properties; the copies are the caller's."""

    def __init__(self, space: Space) -> None:
        self._space = space

    async def copy(self, run: Run, caller: Caller, source: Path, final: Path, outcome: Outcome) -> None:
        """Copy and end the job. A container's copy omits nodes that the caller cannot read."""
        real = await asyncio.to_thread(self._space.resolve, caller, source)
        node = await asyncio.to_thread(self._space.node, caller, real)
        if node.kind == Kind.DATA:
            await self._copy_file(run, caller, real, final, outcome)
        elif node.kind == Kind.CONTAINER:
            if final[: len(real)] == real:
                raise InvalidArgument("a container cannot be copied into itself")
            await self._copy_container(run, caller, real, final, outcome)
        else:
            raise InvalidArgument("the target of the link to copy does not exist")

    async def _copy_file(self, run: Run, caller: Caller, source: Path, final: Path, outcome: Outcome) -> None:
        stop = Flag()
        copying = asyncio.to_thread(self._space.copy_file, caller, source, final, stop.is_set)
        upload = await stop.unless_cancelled(copying)
        if upload is None:
            return
        try:
            await place(run, upload, outcome)
        finally:
            upload.close()

    async def _copy_container(
        self, run: Run, caller: Caller, source: Path, final: Path, outcome: Outcome
    ) -> None:
        stop = Flag()
        with ExitStack() as building:
            staging = await in_thread(lambda: building.enter_context(self._space.building(caller, final)))
            try:
                await stop.unless_cancelled(asyncio.to_thread(self._fill, caller, source, staging, stop))
                await move(run, self._space, caller, staging, final, outcome)
            except BaseException:
                await in_thread(self._discard, caller, staging)
                raise

    def _fill(self, caller: Caller, source: Path, staging: Path, stop: Flag) -> None:
        self._space.copy_container(caller, source, staging)
        for path, kind in self._space.walk(caller, source):
            if stop.is_set():
                return
            if path == source:
                continue
            target = (*staging, *path[len(source) :])
            if kind == Kind.CONTAINER:
                self._space.copy_container(caller, path, target)
            elif kind == Kind.LINK:
                self._space.copy_link(caller, path, target)
            else:
                upload = self._space.copy_file(caller, path, target, stop.is_set)
                if upload is None:
                    return
                try:
                    upload.place()
                finally:
                    upload.close()

    def _discard(self, caller: Caller, staging: Path) -> None:
        with suppress(NodeNotFound):
            for path, _ in self._space.walk(caller, staging, bottom_up=True):
                self._space.delete(caller, path)


class Flag:
    """Tells a worker thread that its task was cancelled."""

    def __init__(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    async def unless_cancelled(self, work: Coroutine[Any, Any, T]) -> T:
        """Await work in a thread; if the task is cancelled, signal the thread and wait for its end."""
        task = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._set = True
            await ended(task)
            if (
                not task.cancelled()
                and task.exception() is None
                and isinstance(left := task.result(), Upload)
            ):
                left.close()
            raise
