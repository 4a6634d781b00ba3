"""The work of recursive jobs: node by node in a worker thread, counted, until the end, an abort, or too many errors."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice

from vospace_client.terms import ExecutionPhase

from vospace.models.caller import Caller
from vospace.models.errors import Fault, InvalidArgument, InvalidURI, NodeNotFound
from vospace.models.node import Change
from vospace.models.uri import Path
from vospace.space.space import Space
from vospace.storage.tree import Kind
from vospace.transfers.copying import Flag
from vospace.transfers.faults import job_failure
from vospace.uws.executor import Run
from vospace.uws.model import ErrorSummary, Outcome, Result
from vospace.uws.service import Checks

logger = logging.getLogger(__name__)
STEP = 500
MAX_ERRORS = 100


def parameters_of_delete(space: Space) -> Checks:
    """Return the checks of the parameters of a recursive deletion, which may be changed before it starts."""

    def target(uri: str) -> str:
        try:
            space.naming.path(uri)
        except InvalidURI as fault:
            raise InvalidURI(f"target: {fault.detail}") from None
        return uri

    return {"target": target}


class _Recursive(ABC):
    """Visits a tree. The counts are stored with the job, so that a later run continues them."""

    bottom_up = False

    def __init__(self, space: Space) -> None:
        self._space = space

    @abstractmethod
    def visit(self, run: Run, caller: Caller, path: Path, kind: str) -> None:
        """Process one node. Raises a Fault."""

    async def __call__(self, run: Run) -> Outcome:
        caller = Caller.from_record(run.job.caller)
        done, errors = run.job.checkpoint.get("done", 0), run.job.checkpoint.get("errors", 0)
        message = run.job.checkpoint.get("message")
        try:
            if (refused := run.job.checkpoint.get("refused")) is not None:
                raise InvalidArgument(refused)
            top = self._space.naming.path(run.job.parameter("target") or "")
            nodes = await asyncio.to_thread(self._start, caller, top)
        except NodeNotFound as error:
            if done + errors:  # an earlier run removed everything
                return _outcome(done, errors, message)
            raise job_failure(error) from error
        except Fault as fault:
            raise job_failure(fault) from fault
        more = True
        kept: set[Path] = set()
        while more and errors <= MAX_ERRORS:
            flag = Flag()
            step = asyncio.to_thread(self._step, run, caller, nodes, kept, flag)
            good, failures, more = await flag.unless_cancelled(step)
            done += good
            errors += len(failures)
            message = message or next(iter(failures), None)
            state = {**run.job.checkpoint, "done": done, "errors": errors, "message": message}
            await run.checkpoint(state)
        return _outcome(done, errors, message)

    def _start(self, caller: Caller, top: Path) -> Iterator[tuple[Path, str]]:
        self._space.node(caller, top, follow=True)
        return self._space.walk(caller, top, bottom_up=self.bottom_up)

    def _step(
        self, run: Run, caller: Caller, nodes: Iterator[tuple[Path, str]], kept: set[Path], flag: Flag
    ) -> tuple[int, list[str], bool]:
        """Process some nodes; return how many succeeded, the errors of the others, and whether there may be more.
        `kept` contains containers that remain because of failures in them: they do not count as failures."""
        done, failures, seen = 0, [], 0
        for path, kind in islice(nodes, STEP):
            seen += 1
            if flag.is_set():
                break
            if path in kept:
                continue
            try:
                self.visit(run, caller, path, kind)
                done += 1
                continue
            except Fault as fault:
                failures.append(fault.text)
            except OSError as error:
                logger.warning("job %s: %s: %s", run.job.id, "/".join(path), error)
                failures.append(f"InternalFault: {error.strerror}")
            if self.bottom_up:
                kept.update(path[:depth] for depth in range(len(path)))
        return done, failures, seen == STEP


class RecursiveDelete(_Recursive):
    """Deletes a tree from its leaves upwards; a link as the top is followed, links within are removed themselves."""

    bottom_up = True

    def visit(self, run: Run, caller: Caller, path: Path, kind: str) -> None:
        self._space.delete(caller, path, sync=False)


class RecursiveUpdate(_Recursive):
    """Applies one change to a node and all below it; links have no properties."""

    def visit(self, run: Run, caller: Caller, path: Path, kind: str) -> None:
        if kind == Kind.LINK:
            return
        record = run.job.checkpoint["change"]
        change = change_from_record(record)
        if kind != Kind.CONTAINER:
            change = Change(change.public, change.read_gids, change.write_gids, None, change.properties)
        self._space.update(caller, path, change)


def change_record(change: Change) -> dict[str, object]:
    """Return a change as stored with a job."""
    return {
        "public": change.public,
        "read": None if change.read_gids is None else sorted(change.read_gids),
        "write": None if change.write_gids is None else sorted(change.write_gids),
        "inherits": change.inherits,
        "properties": dict(change.properties),
    }


def change_from_record(record: dict[str, object]) -> Change:
    read, write, properties = record["read"], record["write"], record["properties"]
    assert isinstance(properties, dict)
    public, inherits = record["public"], record["inherits"]
    return Change(
        public=public if isinstance(public, bool) else None,
        read_gids=frozenset(read) if isinstance(read, list) else None,
        write_gids=frozenset(write) if isinstance(write, list) else None,
        inherits=inherits if isinstance(inherits, bool) else None,
        properties=properties,
    )


def _outcome(done: int, errors: int, message: str | None) -> Outcome:
    """COMPLETED without errors, ABORTED with some, ERROR without results if nothing succeeded. `errorcount` is left out
    when it is 0: its mere presence is a failure to the Python client."""
    good, bad = Result("successcount", f"final:{done}"), Result("errorcount", f"final:{errors}")
    if not errors:
        return Outcome(ExecutionPhase.COMPLETED, (good,))
    if done:
        return Outcome(ExecutionPhase.ABORTED, (good, bad), ErrorSummary(message or "some nodes failed"))
    return Outcome(ExecutionPhase.ERROR, error=ErrorSummary(message or "no node succeeded"))
