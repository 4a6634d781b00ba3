"""Operations on jobs (UWS 1.1 section 2.2): create, read, wait, start, abort, change, delete."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from voservice import tracing
from voservice.notices import Notices
from vospace_client.terms import ExecutionPhase

from vospace.models.errors import InvalidArgument, JobNotFound, PermissionDenied
from vospace.uws.model import ErrorSummary, Job, JobReference, Limits, Parameter, Result, new_job_id, now
from vospace.uws.store import JobStore
from vospace.uws.tables import PHASE_CHANNEL

MAX_WAIT = 60.0
"""Longest time a WAIT blocks, s; a longer or negative wish is cut down to it."""
_RECHECK = 20.0


@dataclass(frozen=True, slots=True)
class Owner:
    """The caller: `name` is the user name, None for an anonymous one; `record` is what a job stores of the caller."""

    name: str | None
    record: dict[str, Any] | None


Checks = Mapping[str, Callable[[str], str]]
"""Parameters of a kind of jobs by their names in lower case: what each is taken for, or a Fault that names it."""


class JobService:
    """Jobs as one caller sees them: his own, and anonymous ones."""

    def __init__(
        self,
        store: JobStore,
        notices: Notices,
        limits: Mapping[str, Limits],
        checks: Mapping[str, Checks] | None = None,
        anonymous_destruction: int | None = None,
    ) -> None:
        """`checks`: by kind; others have no parameters. `anonymous_destruction`: life of jobs that nobody owns, in
        seconds."""
        self.store = store
        self.notices = notices
        self._limits = limits
        self._checks = checks or {}
        self._anonymous_destruction = anonymous_destruction

    def _destruction(self, kind: str, owner: str | None) -> timedelta:
        seconds = self._limits[kind].destruction
        if owner is None and self._anonymous_destruction is not None:
            seconds = min(seconds, self._anonymous_destruction)
        return timedelta(seconds=seconds)

    def checked(self, kind: str, parameters: Sequence[Parameter]) -> tuple[Parameter, ...]:
        """Parameters as a job of this kind takes them. Raises InvalidArgument, or another Fault that names one."""
        known = self._checks.get(kind, {})
        taken: dict[str, str] = {}
        for parameter in parameters:
            name = parameter.name.lower()
            if name not in known:
                those = f"there are {', '.join(known)}" if known else "there are none"
                raise InvalidArgument(f"{parameter.name[:40]} is no parameter of {kind}: {those}")
            if name in taken:
                raise InvalidArgument(f"{name} must be given once")
            taken[name] = known[name](parameter.value)
        return tuple(Parameter(name, value) for name, value in taken.items())

    def new(
        self,
        kind: str,
        owner: Owner,
        *,
        phase: ExecutionPhase = ExecutionPhase.PENDING,
        parameters: Sequence[Parameter] = (),
        job_info: str | None = None,
        job_info_type: str | None = None,
        run_id: str | None = None,
    ) -> Job:
        """A job with this kind's limits, not yet stored."""
        limits = self._limits[kind]
        created = now()
        started = created if phase in (ExecutionPhase.EXECUTING, ExecutionPhase.SUSPENDED) else None
        return Job(
            id=new_job_id(),
            kind=kind,
            owner=owner.name,
            caller=owner.record,
            phase=phase,
            creation_time=created,
            start_time=started,
            destruction_time=created + self._destruction(kind, owner.name),
            execution_duration=limits.execution,
            quote=_quote(created, limits.execution),
            parameters=tuple(parameters),
            job_info=job_info,
            job_info_type=job_info_type,
            run_id=run_id,
            size=len(job_info or ""),
            trace=tracing.current(),
        )

    async def create(self, job: Job) -> Job:
        await self.store.insert(job)
        return job

    async def create_ended(
        self,
        job: Job,
        phase: ExecutionPhase,
        results: tuple[Result, ...],
        error: ErrorSummary | None = None,
        checkpoint: dict[str, Any] | None = None,
    ) -> Job:
        """Store a job whose work was done in the request."""
        ended = now() if phase.final else None
        done = replace(
            job, phase=phase, results=results, error=error, end_time=ended, checkpoint=checkpoint or {}
        )
        return await self.create(done)

    async def get(self, job_id: str, owner: Owner) -> Job:
        """Raises JobNotFound; PermissionDenied for another user's job."""
        job = await self.store.get(job_id)
        if job is None:
            raise JobNotFound(job_id)
        if job.owner is not None and job.owner != owner.name:
            raise PermissionDenied("permission denied")
        return job

    async def references(
        self,
        kinds: Collection[str],
        owner: Owner,
        phases: Collection[ExecutionPhase] = (),
        after: datetime | None = None,
        last: int | None = None,
    ) -> list[JobReference]:
        """The caller's own jobs. Anonymous callers have no list: PermissionDenied."""
        if owner.name is None:
            raise PermissionDenied("anonymous job listing is not permitted")
        return await self.store.references(kinds, owner.name, phases, after, last)

    async def wait(
        self, job_id: str, owner: Owner, seconds: float, phase: ExecutionPhase | None = None
    ) -> Job:
        """Block until the phase changes, at most `seconds` (negative or too long: MAX_WAIT), as long as the job is
        PENDING, QUEUED or EXECUTING and, if `phase` is given, in that phase (UWS 1.1 section 2.2.1.2)."""
        loop = asyncio.get_running_loop()
        limit = MAX_WAIT if seconds < 0 else min(seconds, MAX_WAIT)
        deadline = loop.time() + limit
        with self.notices.subscribe(job_id, PHASE_CHANNEL) as changed:
            first = job = await self.get(job_id, owner)
            if phase is not None and job.phase is not phase:
                return job
            while job.phase.active and job.phase is first.phase:
                remaining = deadline - loop.time()
                if remaining <= 0:
                    break
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(remaining, _RECHECK)):
                        await changed.wait()
                changed.clear()
                job = await self.get(job_id, owner)
        return job

    async def run(self, job: Job) -> Job:
        """Start a PENDING or HELD job. Asking again while it is queued or runs changes nothing."""
        queued = await self.store.queue(job.id)
        if queued is not None:
            return queued
        phase = await self.store.phase(job.id)
        if phase in (ExecutionPhase.QUEUED, ExecutionPhase.EXECUTING, ExecutionPhase.SUSPENDED):
            return replace(job, phase=phase)
        raise InvalidArgument(f"PHASE=RUN: the job is {phase or 'gone'}; only a PENDING job can be started")

    async def abort(self, job: Job) -> Job:
        """Abort whatever is not finished; a finished job stays as it is."""
        return await self.store.abort(job.id) or job

    async def delete(self, job: Job) -> None:
        """Stop the job and forget it with all that belongs to it."""
        await self.store.delete(job.id)

    async def set_execution_duration(self, job: Job, seconds: int) -> Job:
        """0 asks for no limit; what exceeds the kind's limit is cut down to it."""
        if seconds < 0:
            raise InvalidArgument("EXECUTIONDURATION must be 0 or a positive number of seconds")
        limit = self._limits[job.kind].execution
        if limit and (seconds == 0 or seconds > limit):
            seconds = limit
        return await self._change(
            job, {"execution_duration": seconds, "quote": _quote(job.creation_time, seconds)}
        )

    async def set_destruction(self, job: Job, moment: datetime) -> Job:
        """Reduce a value beyond the kind's limit to the limit."""
        limit = job.creation_time + self._destruction(job.kind, job.owner)
        return await self._change(job, {"destruction_time": min(moment, limit)})

    async def set_parameters(self, job: Job, parameters: Sequence[Parameter]) -> Job:
        """Replace parameters by name while the job is PENDING. Raises a Fault that names what is wrong."""
        given = self.checked(job.kind, parameters)
        names = {p.name for p in given}
        kept = [p for p in job.parameters if p.name.lower() not in names]
        values = {"parameters": [[p.name, p.value] for p in (*kept, *given)]}
        changed = await self.store.change(job.id, (ExecutionPhase.PENDING,), values)
        if changed is None:
            raise InvalidArgument("parameters can only be changed while the job is PENDING")
        return changed

    async def _change(self, job: Job, values: dict[str, Any]) -> Job:
        changed = await self.store.change(job.id, tuple(ExecutionPhase), values)
        if changed is None:
            raise JobNotFound(job.id)
        return changed


def _quote(created: datetime, execution_duration: int) -> datetime | None:
    """When the job is done at the latest; unknown without a limit."""
    return created + timedelta(seconds=execution_duration) if execution_duration else None
