"""A large file whose process ends while it is fetched goes on in the next one, behind what is there."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable

import pytest
from voservice.content import Content
from vospace.storage import staging
from vospace.transfers.continuing import Note

ROOT = "vos://opencadc.org~cavern"
MIB = 1 << 20
BODY = random.Random(1).randbytes(80 * MIB)
OTHER = random.Random(2).randbytes(80 * MIB)
MD5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()
ARRIVED = 70 * MIB
"""Bytes that the source has sent when the process ends."""


async def pull(service, source, **params: str) -> str:
    """A pull by a transfer document."""
    core = "ivo://ivoa.net/vospace/core#"
    stated = "".join(f'<vos:param uri="{core}{name}">{value}</vos:param>' for name, value in params.items())
    return await service.submit(
        '<vos:transfer xmlns:vos="http://www.ivoa.net/xml/VOSpace/v2.0" version="2.1">'
        f"<vos:target>{ROOT}/box/f</vos:target><vos:direction>pullToVoSpace</vos:direction>"
        f'<vos:protocol uri="{core}httpget"><vos:endpoint>{source.url("/d/f")}</vos:endpoint></vos:protocol>'
        f"{stated}</vos:transfer>"
    )


async def bulk_pull(service, source, **params: str) -> str:
    """A bulk pull of the same file."""
    row = {"source": source.url("/d/f"), "target": f"{ROOT}/box/f"}
    row |= {"md5": params["MD5"], "size": len(BODY)} if params else {}
    answer = await service.client.post(
        f"{service.url}/bulk-pull?PHASE=RUN", json={"rows": [row]}, headers=service.as_user("ada")
    )
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


Submit = Callable[..., Awaitable[str]]


async def kill(service) -> None:
    await service.kill()


async def stop(service) -> None:
    """As whoever replaces a container or a pod does."""
    service.process.send(signal.SIGTERM)
    service.process.wait()


@pytest.fixture
async def begin(mortal, source, eventually):
    """Begin a pull, and wait until most of the file is on disk."""
    await mortal.container("/box")
    source.files["/d/f"] = BODY

    async def begin(submit: Submit, **params: str) -> str:
        source.script = [f"stall:{ARRIVED}"]
        job = await submit(mortal, source, **params)
        # Blocks that are not full wait in memory.
        await eventually(lambda: any(path.stat().st_size >= ARRIVED - 8 * MIB for path in kept(mortal)))
        return job

    return begin


def kept(service):
    return list(service.file("box").glob(".vospace-kept-*"))


def ranges(source) -> list[str | None]:
    return [request.headers.get("Range") for request in source.requests]


@pytest.mark.parametrize(
    ("submit", "end", "known"),
    [
        pytest.param(pull, kill, {"MD5": MD5}, id="pull, killed, MD5 asked for"),
        pytest.param(pull, stop, {}, id="pull, stopped, MD5 told by the source"),
        pytest.param(bulk_pull, kill, {}, id="bulk pull, killed, MD5 told by the source"),
        pytest.param(bulk_pull, stop, {"MD5": MD5}, id="bulk pull, stopped, MD5 asked for"),
    ],
)
async def test_the_next_process_continues(mortal, source, begin, submit, end, known):
    source.digest = None if known else source.md5_digest(BODY)
    job = await begin(submit, **known)
    await end(mortal)
    await mortal.start()
    assert await mortal.ended(job) == "COMPLETED", await mortal.error(job)
    first, second = ranges(source)
    assert first is None
    start = int(second.removeprefix("bytes=").removesuffix("-"))
    assert ARRIVED - 8 * MIB <= start <= ARRIVED
    assert mortal.file("box/f").read_bytes() == BODY
    assert os.listxattr(mortal.file("box/f")).count("user.vospace-kept") == 0
    assert mortal.leftovers() == []


async def test_another_version_is_fetched_from_its_begin(mortal, source, begin):
    source.digest = source.md5_digest(BODY)
    job = await begin(pull)
    await mortal.kill()
    source.files["/d/f"], source.etag, source.digest = OTHER, '"v2"', source.md5_digest(OTHER)
    await mortal.start()
    assert await mortal.ended(job) == "COMPLETED", await mortal.error(job)
    assert mortal.file("box/f").read_bytes() == OTHER


async def test_what_was_lost_on_disk_is_found_out(mortal, source, begin):
    """As a file system leaves zeros where a power cut came before the write."""
    job = await begin(bulk_pull, MD5=MD5)
    await mortal.kill()
    (left,) = kept(mortal)
    with left.open("r+b") as file:
        file.seek(9 * MIB)
        file.write(bytes(MIB))
    await mortal.start()
    assert await mortal.ended(job) == "COMPLETED", await mortal.error(job)
    assert ranges(source)[-1] is None
    assert mortal.file("box/f").read_bytes() == BODY
    assert mortal.leftovers() == []


async def test_without_a_checksum_nothing_is_kept(mortal, source, eventually):
    await mortal.container("/box")
    source.files["/d/f"] = BODY
    source.script = [f"stall:{ARRIVED}"]
    job = await pull(mortal, source)
    await eventually(lambda: source.requests)
    await mortal.kill()
    assert kept(mortal) == []
    await mortal.start()
    assert await mortal.ended(job) == "COMPLETED", await mortal.error(job)
    assert ranges(source) == [None, None]


async def test_an_abort_leaves_nothing(mortal, begin, eventually):
    job = await begin(pull, MD5=MD5)
    await mortal.client.post(f"{job}/phase", data={"PHASE": "ABORT"}, headers=mortal.as_user("ada"))
    await eventually(lambda: not mortal.leftovers())


async def test_what_is_over_leaves_nothing(mortal, source, begin, eventually):
    """Its time, as well as what its user aborts: what is kept counts for no quota."""
    job = await begin(pull, MD5=MD5)
    headers = mortal.as_user("ada")
    await mortal.client.post(f"{job}/executionduration", data={"EXECUTIONDURATION": "1"}, headers=headers)
    assert await mortal.ended(job) == "ABORTED"
    await eventually(lambda: not mortal.leftovers())


def test_a_note_that_this_version_does_not_understand_is_none():
    note = Note("s", '"v"', Content(1, MD5, None), None, None)
    assert Note.read(note.write()) == note
    text = note.write()
    for other in (None, b"", b"\xff", b"[]", b"{}", text[:-1], text.replace(b'"size":1', b'"size":"x"')):
        assert Note.read(other) is None


async def test_what_nobody_continues_goes_a_day_later(mortal, begin, eventually):
    job = await begin(pull, MD5=MD5)
    await mortal.kill()
    (left,) = kept(mortal)
    yesterday = time.time() - staging.KEPT_SECONDS - 60
    os.utime(left, (yesterday, yesterday))
    # It is of no job that this service has.
    left.rename(left.with_name(f"{staging.KEPT_PREFIX}other"))
    await mortal.start()
    assert await mortal.ended(job) == "COMPLETED", await mortal.error(job)
    await eventually(lambda: not kept(mortal))


async def test_a_container_is_removed_with_what_nobody_continues(mortal, begin):
    job = await begin(pull, MD5=MD5)
    await mortal.kill()
    (left,) = kept(mortal)
    left.rename(left.with_name(f"{staging.KEPT_PREFIX}other"))
    await mortal.start()
    assert await mortal.ended(job) == "COMPLETED", await mortal.error(job)
    for node in ("box/f", "box"):
        answer = await mortal.client.delete(f"{mortal.url}/nodes/{node}", headers=mortal.as_user("ada"))
        assert answer.status_code == 200, answer.text
    assert not mortal.file("box").exists()


async def test_a_file_that_somebody_else_has_put_there_is_not_taken(mortal, source, begin):
    job = await begin(pull, MD5=MD5)
    await mortal.kill()
    (left,) = kept(mortal)
    os.chown(left, 10002, 10002)
    await mortal.start()
    assert await mortal.ended(job) == "COMPLETED", await mortal.error(job)
    assert ranges(source) == [None, None]
    assert mortal.file("box/f").read_bytes() == BODY
    assert mortal.file("box/f").stat().st_uid == 10001
