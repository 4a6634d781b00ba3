"""Estimates: what a request would cost, before it is made."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from voservice.content import Content
from voservice.problems import TooLarge, TooMany, Unavailable
from vospace_client.client import CavernError
from vospace_client.documents import Node
from vospace_client.terms import DATE

from preparer.api.context import Caller, Context
from preparer.ledger import NewFile
from preparer.staging.rse import RseError, Source

MOST_CONTAINERS = 1000
# Of coordinate descent, which converges quickly for three costs.
ROUNDS = 50


@contextmanager
def one_at_a_time(shared: Context, who: Caller) -> Iterator[None]:
    """Allow a user one estimate at a time, and a number a minute: each one asks the RSE and Cavern many times."""
    username = who.identity.username
    if username in shared.estimating:
        raise TooMany("An estimate of yours is being made; wait for its end", headers={"Retry-After": "5"})
    shared.limit(username, "estimates", shared.settings.preparer_estimate_rate)
    shared.estimating.add(username)
    try:
        yield
    finally:
        shared.estimating.discard(username)


async def estimate(shared: Context, who: Caller, files: Sequence[NewFile]) -> dict[str, Any]:
    """Count files, bytes to stage, files in place already, files missing on the RSE, quota left (bytes), and seconds.

    Files whose size the RSE does not tell are listed as unknown; the bytes are those of the others, and the time is
    not predicted.
    """
    try:
        staged = await _staged(shared, who, files)
        quota_left = await _quota_left(shared, who)
    except CavernError as exc:
        raise Unavailable(f"Cavern does not answer: {exc.detail}") from exc
    most = shared.settings.preparer_estimate_files
    asked = sum(_must_ask(file, staged.get(file.target)) for file in files)
    if asked > most:
        raise TooLarge(
            f"/files: the storage element would be asked of {asked} files, {most} are the most;"
            " divide the request, or give the files' sizes"
        )

    async def source(file: NewFile) -> Source | None:
        if not _must_ask(file, staged.get(file.target)):
            return Source(file.size)
        async with shared.asking:
            try:
                return await shared.rses.head(file, who.token)
            except RseError as exc:
                if exc.away:
                    raise Unavailable(f"{file.did}: {exc}") from exc
                return Source(file.size)

    sources = await asyncio.gather(*(source(file) for file in files))
    missing = [file.did for file, found in zip(files, sources, strict=True) if found is None]
    wanted = [
        (file, found.size)
        for file, found in zip(files, sources, strict=True)
        if found is not None and not in_place(file, found, staged.get(file.target))
    ]
    unknown = [file.did for file, size in wanted if size is None]
    total = sum(size or 0 for _, size in wanted)
    seconds = None if unknown else predict(await shared.ledger.history(), len(wanted), total)
    return {
        "files": len(files),
        "bytes": total,
        "present": len(files) - len(missing) - len(wanted),
        "missing": missing,
        "unknown": unknown,
        "quota_left": quota_left,
        "seconds": None if seconds is None else round(seconds, 1),
    }


def predict(history: Sequence[tuple[int, int, float]], files: int, size: int) -> float | None:
    """Predict the seconds that staging *files* files of *size* bytes takes; None without a history.

    The history is (files, bytes, seconds) of earlier tasks. The model is linear: a cost for each task, for each file
    and for each byte, fitted by least squares of the relative error with no cost negative.
    """
    if not history:
        return None
    rows = [((1.0, float(n), float(b)), max(s, 0.001)) for n, b, s in history]
    costs = [0.0, 0.0, 0.0]
    for _round in range(ROUNDS):
        for k in range(3):
            scale = sum((x[k] / s) ** 2 for x, s in rows)
            if scale:
                rest = sum(
                    (s - sum(costs[j] * x[j] for j in range(3) if j != k)) * x[k] / s**2 for x, s in rows
                )
                costs[k] = max(0.0, rest / scale)
    return costs[0] + costs[1] * files + costs[2] * size if files else 0.0


def in_place(file: NewFile, source: Source, node: Node | None) -> bool:
    """Whether a node is the requested file already.

    The checksums decide, or where none is known the size and whether the source is newer.
    """
    if node is None or node.kind != "DataNode":
        return False
    if Content(source.size, file.md5, file.adler32).differs(node.content) is not None:
        return False
    if file.md5 or file.adler32:
        return True
    try:
        written = datetime.fromisoformat(node.properties.get(DATE, ""))
    except ValueError:
        return False
    written = written if written.tzinfo else written.replace(tzinfo=UTC)
    return source.size is not None and source.modified is not None and source.modified <= written


def _must_ask(file: NewFile, node: Node | None) -> bool:
    """Whether the RSE must be asked about a file."""
    return file.size is None or (node is not None and not file.md5 and not file.adler32)


async def _staged(shared: Context, who: Caller, files: Sequence[NewFile]) -> dict[str, Node]:
    """Return the nodes in the containers that the files go to, by path."""
    staged: dict[str, Node] = {}
    containers = sorted({file.target.rpartition("/")[0] for file in files})
    if len(containers) > MOST_CONTAINERS:
        raise TooLarge(
            f"/files: they go to {len(containers)} containers, {MOST_CONTAINERS} are the most; divide it"
        )
    for container in containers:
        for name, node in (await shared.cavern.children(container, who.token)).items():
            staged[f"{container}/{name}"] = node
    return staged


async def _quota_left(shared: Context, who: Caller) -> int | None:
    """Return the bytes left in the user's area, or None without a quota."""
    node = await shared.cavern.node(shared.settings.home_of(who.identity.username), who.token)
    return node.quota_left if node else None
