"""Prometheus metrics of the space: its jobs, its mode, and the room that is left."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from itertools import product

from prometheus_client import Metric
from voservice.metrics import Collect, gauge
from vospace_client.terms import ExecutionPhase

from vospace.config import Settings
from vospace.control.state import Control, State
from vospace.kinds import BULK, DELETE, PACKAGE, SETPROPS, SYNCTRANS, TRANSFERS
from vospace.uws.store import JobStore

_KINDS = (TRANSFERS, SYNCTRANS, PACKAGE, BULK, DELETE, SETPROPS)
_PHASES = (ExecutionPhase.QUEUED, ExecutionPhase.EXECUTING)


def of(settings: Settings, store: JobStore, control: Control) -> Collect:
    """Return the collector of a space."""

    async def collect() -> Iterable[Metric]:
        jobs = {(kind, phase.value): 0.0 for kind, phase in product(_KINDS, _PHASES)}
        oldest = {(kind,): 0.0 for kind in _KINDS}
        for kind, phase, number, age in await store.under_way():
            jobs[kind, phase] = number
            if phase == ExecutionPhase.QUEUED:
                oldest[kind,] = age
        room = await asyncio.to_thread(os.statvfs, settings.root)
        modes = {(state.value,): float(control.state is state) for state in State}
        return [
            gauge("vospace_jobs", "Jobs that wait and that run", jobs, ["kind", "phase"]),
            gauge("vospace_oldest_job_seconds", "Age of the oldest job that waits", oldest, ["kind"]),
            gauge("vospace_mode", "Whether the mode is this", modes, ["mode"]),
            gauge("vospace_size_bytes", "Size of the file system", {(): room.f_blocks * room.f_frsize}),
            gauge(
                "vospace_free_bytes", "Bytes that may still be written", {(): room.f_bavail * room.f_frsize}
            ),
            gauge("vospace_files", "Files that the file system can have", {(): room.f_files}),
            gauge("vospace_free_files", "Files that it can still have", {(): room.f_favail}),
        ]

    return collect
