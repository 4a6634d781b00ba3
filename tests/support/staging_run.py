"""Staging by an approach alone, without a ledger and a runner, for tests of how files get from an RSE into a Cavern."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

from ledger_double import ledger
from preparer.ledger import Outcome
from preparer.staging.approach import Job
from preparer.staging.vospace import CavernApproach
from vospace_client.client import Cavern


def limit_to(cavern: Cavern, path: str) -> None:
    """Let a client use one of the ways alone: "bulk", "pull" or "relay"."""
    client: Any = cavern
    if path != "bulk":

        async def no_bulk() -> None:
            return None

        client.bulk_pull_url = no_bulk
    client._pulls = path == "pull"


async def stage(
    approach: CavernApproach, files: list[Any], awaited: list[Outcome] | None = None
) -> dict[int, Outcome]:
    """Stage *files* for ada until all are final; returns what became of each.

    What files wait for meanwhile comes to *awaited*.
    """
    outcomes: dict[int, Outcome] = {}

    async def report(found: Sequence[Outcome]) -> None:
        outcomes.update({outcome.number: outcome for outcome in found})

    async def retried(found: Sequence[Outcome]) -> None:
        for outcome in found:
            files[outcome.number].attempts += 1

    async def remember(job: str | None, event: int) -> None:
        return

    task: Any = SimpleNamespace(id=uuid.uuid4(), username="ada", worker="w")
    written = ledger(report, retried, remember)
    written.awaited = [] if awaited is None else awaited
    for file in files:
        vars(file).setdefault("tape_since", None)
    job = Job(task, "ada", written)

    async def pages() -> AsyncIterator[Sequence[Any]]:
        yield files

    await approach.admit(job, pages())
    while left := [file for file in files if file.number not in outcomes]:
        await approach.stage(job, left)
    return outcomes
