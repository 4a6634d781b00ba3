"""Storage elements as they are: every habit of theirs on every path by which a file is staged, and in an estimate.

The worker of prepare-data stages into a service that runs as a process of its own, from a server that answers as some
storage element does. What is on the disk in the end is the same by every path.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from preparer.api.estimate import estimate
from preparer.config import PreparerSettings
from preparer.ledger import NewFile
from preparer.staging.rse import Rse, RseError, Rses, Source
from preparer.staging.vospace import CavernApproach
from rse_habits import HabitualServer, habits
from staging_run import limit_to, stage
from vospace_client.client import Cavern

CORE = "ivo://ivoa.net/vospace/core#"


@pytest.fixture
async def rse() -> AsyncIterator[HabitualServer]:
    elsewhere, server = HabitualServer(), HabitualServer()
    await elsewhere.start()
    await server.start()
    server.habits = habits(elsewhere.base)
    yield server
    await server.stop()
    await elsewhere.stop()
    assert elsewhere.requests == []
    # Nothing that proves who somebody is goes to a storage element.
    assert not any({"authorization", "cookie"} & asked.headers.keys() for asked in server.requests)
    assert {asked.headers["accept-encoding"] for asked in server.requests} == {"identity"}


def attribute(path: Any, name: str) -> str | None:
    try:
        return os.getxattr(path, f"user.{CORE}{name}").decode()
    except OSError:
        return None


@pytest.mark.parametrize("path", ["bulk", "pull", "relay"])
async def test_every_habit_on_every_path(
    make_service: Any, rse: HabitualServer, path: str, subtests: pytest.Subtests
) -> None:
    service = await make_service(VOSPACE_PULL_SOURCES=f"{rse.base}/d", VOSPACE_PULL_ATTEMPTS="2")
    settings = PreparerSettings(
        cavern_api_url=service.url,
        abs_url_rse_root=f"{rse.base}/d",
        cavern_api_token="cavernadmin",
        preparer_retry_delay=0.01,
        preparer_file_attempts=3,
    )
    files = [
        SimpleNamespace(
            number=number,
            did="s:f",
            rse=None,
            path=rse.path(name),
            target=f"/home/ada/{rse.path(name)}",
            attempts=0,
            **({"size": None, "md5": None, "adler32": None} | habit.known),
        )
        for number, (name, habit) in enumerate(rse.habits.items())
    ]
    async with aiohttp.ClientSession() as session, Rses(settings) as rses:
        cavern = Cavern(settings.cavern_api_url, settings.preparer_vos_uri, session)
        limit_to(cavern, path)
        outcomes = await stage(CavernApproach(settings, cavern, rses, None), files)

    for file, (name, habit) in zip(files, rse.habits.items(), strict=True):
        with subtests.test(habit=name):
            outcome = outcomes[file.number]
            assert outcome.fault == habit.fault, outcome.detail
            found = service.file(file.target)
            assert (found.read_bytes() if found.exists() else None) == habit.content
            if habit.content is None:
                continue
            assert outcome.bytes == len(habit.content)
            kind = attribute(found, "type")
            assert (None if kind == "application/octet-stream" else kind) == habit.media_type
            assert attribute(found, "encoding") == habit.encoding
    assert service.leftovers() == []


async def sized(rse: Rse, source: str) -> Source | RseError | None:
    try:
        return await rse.head(source)
    except RseError as error:
        return error


async def test_every_habit_in_an_estimate(rse: HabitualServer, subtests: pytest.Subtests) -> None:
    settings = PreparerSettings(abs_url_rse_root=f"{rse.base}/d")
    async with Rses(settings) as rses:
        (asked,) = rses.all
        for name, habit in rse.habits.items():
            with subtests.test(habit=name):
                found = await sized(asked, asked.url(rse.path(name)))
                if isinstance(found, RseError):
                    assert habit.fault or name.startswith("busy"), found
                    assert found.away == name.startswith("busy")
                    continue
                assert found is not None
                assert found.size == habit.size
                if found.modified is not None:
                    assert found.modified.tzinfo is not None
        assert await sized(asked, f"{rse.base}/d/none") is None


async def test_one_request_asks_of_many_what_one_cannot_tell(rse: HabitualServer) -> None:
    """An estimate of all habits names those whose size is not known, and is one."""
    settings = PreparerSettings(abs_url_rse_root=f"{rse.base}/d")
    names = [name for name in rse.habits if not name.startswith("busy")]
    files = [
        NewFile(f"s:{number}", rse.path(name), f"/home/ada/{number}") for number, name in enumerate(names)
    ]

    async def nothing(*_arguments: Any) -> Any:
        return {}

    async with Rses(settings) as rses:
        cavern: Any = SimpleNamespace(children=nothing, node=lambda *_: none())
        ledger: Any = SimpleNamespace(history=nothing)
        shared: Any = SimpleNamespace(
            rses=rses,
            settings=settings,
            cavern=cavern,
            ledger=ledger,
            asking=asyncio.Semaphore(32),
        )
        who: Any = SimpleNamespace(token="ada", identity=SimpleNamespace(username="ada"))
        told = await estimate(shared, who, files)
    sizes = [rse.habits[name].size for name in names]
    assert told["bytes"] == sum(size or 0 for size in sizes)
    assert told["unknown"] == [f"s:{number}" for number, size in enumerate(sizes) if size is None]
    assert (told["files"], told["missing"], told["seconds"]) == (len(files), [], None)


async def none() -> None:
    return None
