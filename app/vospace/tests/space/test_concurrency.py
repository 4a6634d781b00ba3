"""Many writers at a time, in two server processes: no torn file, no lost change."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import hashlib
import inspect
import multiprocessing
import os
import signal
import sys
from contextlib import contextmanager

import pytest
from lxml import etree
from vospace.models.caller import Caller
from vospace.space import create
from vospace.space.space import Space
from vospace.storage.locks import Locks
from vospace.storage.tree import Directory

pytestmark = pytest.mark.parametrize("metadata", ["xattrs", "sidecar"], indirect=True, scope="session")
"""Whichever way properties are kept."""

VOS = "{http://www.ivoa.net/xml/VOSpace/v2.0}"
CORE = "ivo://ivoa.net/vospace/core#"
TEAM = "ivo://opencadc.org/gms?team"
ADA = Caller("ada", 10001, 10001, frozenset({10001}), frozenset(), "token")


def properties(content: bytes) -> dict[str, str]:
    found = etree.fromstring(content).find(f"{VOS}properties")
    return {p.get("uri"): p.text or "" for p in found}


async def test_readers_see_one_writers_file(client, second, ada, box):
    bodies = [os.urandom(200_000 + number) for number in range(8)]
    url = f"/files{box}/f"
    await client.put(url, content=bodies[0], headers=ada)
    seen = []

    async def write(number: int) -> None:
        for _ in range(4):
            answer = await (client, second)[number % 2].put(url, content=bodies[number], headers=ada)
            assert answer.status_code == 201

    async def read(which: int) -> None:
        for _ in range(20):
            answer = await (client, second)[which].get(url, headers=ada)
            assert answer.content in bodies
            digest = base64.b64encode(hashlib.md5(answer.content, usedforsecurity=False).digest()).decode()
            assert answer.headers["digest"] == f"md5={digest}"
            seen.append(len(answer.content))

    await asyncio.gather(*(write(n) for n in range(8)), read(0), read(1))
    assert len(set(seen)) > 1


async def test_no_conditional_write_is_lost(client, second, ada, box):
    """A counter in a file, counted up by many at a time."""
    url = f"/files{box}/counter"
    made = await asyncio.gather(
        *(
            server.put(url, content=b"0", headers=ada | {"If-None-Match": "*"})
            for server in (client, second) * 4
        )
    )
    assert sorted(answer.status_code for answer in made) == [201] + [412] * 7

    async def count(server) -> int:
        refused = 0
        while True:
            found = await server.get(url, headers=ada)
            answer = await server.put(
                url,
                content=str(int(found.text) + 1).encode(),
                headers=ada | {"If-Match": found.headers["etag"]},
            )
            if answer.status_code == 201:
                return refused
            assert answer.status_code == 412, answer.text
            refused += 1

    refused = await asyncio.gather(*(count((client, second)[number % 2]) for number in range(12)))
    assert (await client.get(url, headers=ada)).text == "12"
    assert sum(refused) > 0, "nobody was in anybody's way"


async def test_no_property_is_lost(client, second, ada, box, document):
    """Properties and permissions set while the file is written again and again."""
    url = f"/nodes{box}/f"
    await client.put(f"/files{box}/f", content=b"first", headers=ada)
    given = {f"key:{number}": str(number) for number in range(30)}

    async def change(key: str, value: str) -> None:
        server = (client, second)[int(value) % 2]
        content = document("DataNode", properties={key: value})
        assert (await server.post(url, content=content, headers=ada)).status_code == 200

    async def write(server) -> None:
        for number in range(15):
            await server.put(f"/files{box}/f", content=bytes([number]) * 1000, headers=ada)

    async def permit() -> None:
        for key, value in ((f"{CORE}ispublic", "true"), (f"{CORE}groupread", TEAM)):
            answer = await second.post(
                url, content=document("DataNode", properties={key: value}), headers=ada
            )
            assert answer.status_code == 200

    await asyncio.gather(*(change(*item) for item in given.items()), write(client), write(second), permit())
    found = properties((await client.get(url, headers=ada)).content)
    assert {key: found.get(key) for key in given} == given
    assert (found[f"{CORE}ispublic"], found[f"{CORE}groupread"]) == ("true", TEAM)


async def test_a_name_is_given_once(client, second, ada, bob, box, document):
    """Of many who make the same container one succeeds; and who comes second to a file must have a right to it."""
    answers = await asyncio.gather(
        *(
            server.put(f"/nodes{box}/c", content=document("ContainerNode"), headers=ada)
            for server in (client, second) * 5
        )
    )
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 9
    grant = document("ContainerNode", properties={f"{CORE}groupwrite": TEAM})
    await client.post(f"/nodes{box}/c", content=grant, headers=ada)
    for number in range(10):
        url = f"/files{box}/c/{number}"
        one, two = await asyncio.gather(
            client.put(url, content=b"ada", headers=ada), second.put(url, content=b"bob", headers=bob)
        )
        kept = (await client.get(url, headers=ada)).text
        owner = properties((await client.get(f"/nodes{box}/c/{number}", headers=ada)).content)[
            f"{CORE}creator"
        ]
        assert {one.status_code, two.status_code} <= {201, 403}
        if (one.status_code, two.status_code) != (201, 201):
            assert owner == kept


async def test_a_container_is_whole_when_it_appears(client, ada, box, document, root, monkeypatch):
    """With its owner, its permissions and its properties: who comes at once is not refused."""
    apply, before = create.apply, []

    def look(kept, descriptor, change):
        before.extend(os.listdir(root / box[1:]))
        apply(kept, descriptor, change)

    monkeypatch.setattr(create, "apply", look)
    properties = {"note": "1", f"{CORE}groupread": TEAM}
    answer = await client.put(
        f"/nodes{box}/c", content=document("ContainerNode", properties=properties), headers=ada
    )
    assert answer.status_code == 201
    assert [name[:9] for name in before] == [".vospace-"]
    assert os.listdir(root / box[1:]) == ["c"]

    def fail(*_):
        raise OSError(5, "the disk is broken")

    monkeypatch.setattr(create, "apply", fail)
    answer = await client.put(f"/nodes{box}/d", content=document("ContainerNode"), headers=ada)
    assert answer.status_code == 500
    assert os.listdir(root / box[1:]) == ["c"]


def test_a_tree_deeper_than_a_program_may_call_itself(settings, names):
    space = Space(settings)
    ada = Caller("ada", 10001, 10001, frozenset({10001}))
    top: tuple[str, ...] = (names(),)
    for depth in range(200):
        space.create_container(ada, top + ("d",) * depth)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 150)
    try:
        down = [path for path, _ in space.walk(ada, top)]
        assert [path for path, _ in space.walk(ada, top, bottom_up=True)] == down[::-1]
    finally:
        sys.setrecursionlimit(limit)
    assert len(down) == 200
    for path in reversed(down):
        space.delete(ada, path, sync=False)
    space.close()


async def test_nothing_is_left_of_what_broke_off(client, ada, box, root):
    async def broken():
        yield b"x" * 100_000
        raise RuntimeError("the client is gone")

    for _ in range(3):
        try:
            await client.put(f"/files{box}/f", content=broken(), headers=ada)
        except RuntimeError:
            continue
    assert os.listdir(root / box[1:]) == []


async def test_a_file_keeps_its_own_permissions_when_written_again(client, ada, bob, box, document):
    await client.put(f"/files{box}/old", content=b"private", headers=ada)
    grant = {f"{CORE}groupread": TEAM, "ivo://cadc.nrc.ca/vospace/core#inheritPermissions": "true"}
    await client.post(f"/nodes{box}", content=document("ContainerNode", properties=grant), headers=ada)
    await client.put(f"/files{box}/old", content=b"still private", headers=ada)
    await client.put(f"/files{box}/new", content=b"for the group", headers=ada)
    assert (await client.get(f"/files{box}/new", headers=bob)).status_code == 200
    assert (await client.get(f"/files{box}/old", headers=bob)).status_code == 403


async def test_a_quota_holds_in_all_processes(client, second, ada, names, document, root):
    """Uploads in two processes do not exceed it together, and what is removed in one, or beside both, makes room."""
    box = f"/projects/{names()}"
    admin = {"Authorization": "Bearer cavernadmin"}
    limited = document("ContainerNode", properties={f"{CORE}creator": "ada", f"{CORE}quota": "10000"})
    assert (await client.put(f"/nodes{box}", content=limited, headers=admin)).status_code == 201

    async def put(server, name: str) -> int:
        return (await server.put(f"/files{box}/{name}", content=b"x" * 3000, headers=ada)).status_code

    found = await asyncio.gather(*(put((client, second)[n % 2], str(n)) for n in range(8)))
    assert sorted(found) == [201] * 3 + [413] * 5
    assert sum(p.stat().st_size for p in (root / box[1:]).iterdir()) == 9000
    kept = os.listdir(root / box[1:])
    await client.delete(f"/nodes{box}/{kept[0]}", headers=ada)
    assert await put(second, "again") == 201
    assert await put(client, "too much") == 413
    (root / box[1:] / kept[1]).unlink()
    async with asyncio.timeout(60):
        while await put(client, "after a while") != 201:
            pass  # a count is good for a moment


async def test_what_dead_processes_left_is_swept_at_the_start(client, settings, ada, box, root):
    await client.put(f"/files{box}/kept", content=b"x", headers=ada)
    here = root / box[1:]
    (here / "deep").mkdir()
    stale, busy = here / "deep/.vospace-stale", here / ".vospace-busy"
    stale.write_bytes(b"x")
    dangling, pipe = here / ".vospace-link", here / ".vospace-pipe"
    dangling.symlink_to("nowhere")
    os.mkfifo(pipe)
    left = here / ".vospace-copy-left"
    (left / "deep").mkdir(parents=True)
    (left / "deep/f").write_bytes(b"x")
    outside = root.parent / "outside"
    outside.mkdir()
    (left / "link").symlink_to(outside)
    (outside / "f").write_bytes(b"x")
    with busy.open("wb") as written:
        fcntl.flock(written, fcntl.LOCK_EX)
        (here / "link").symlink_to(here / "deep")
        space = Space(settings)
        locks = Locks(settings.vospace_base_dir)
        try:
            with locks.building("copy-") as name:
                building = here / name
                (building / "deep").mkdir(parents=True)
                (building / "deep/f").write_bytes(b"x")
                assert space.sweep(lambda: True) == 0
                assert space.sweep(lambda: False) >= 3
                assert (building / "deep/f").exists()
            assert space.sweep(lambda: False) == 1
            assert not building.exists()
        finally:
            space.close()
        assert {left.name, dangling.name}.isdisjoint(os.listdir(here))
        assert os.listdir(here / "deep") == []
        assert (busy.exists(), pipe.exists(), (here / "kept").exists()) == (True, True, True)
    assert (outside / "f").read_bytes() == b"x"
    assert (await client.get(f"/nodes{box}/deep", headers=ada)).status_code == 200


async def test_a_file_about_to_replace_another_is_swept_only_when_its_process_is_dead(
    client, settings, ada, box, root, monkeypatch
):
    await client.put(f"/files{box}/f", content=b"old", headers=ada)
    dead = root / box[1:] / ".vospace-dead"
    dead.write_bytes(b"new")
    swept = []
    taking_away = Directory.taking_away

    @contextmanager
    def sweeping(directory, name):
        space = Space(settings)
        try:
            swept.append(space.sweep(lambda: False))
        finally:
            space.close()
        with taking_away(directory, name):
            yield

    monkeypatch.setattr(Directory, "taking_away", sweeping)
    assert (await client.put(f"/files{box}/f", content=b"new", headers=ada)).status_code in (200, 201)
    assert swept == [1]
    assert not dead.exists()
    assert (root / box[1:] / "f").read_bytes() == b"new"


@pytest.mark.parametrize("build", ["container", "link"])
async def test_what_a_process_leaves_that_dies_before_a_name_appears_is_swept_at_once(
    client, settings, box, root, monkeypatch, build
):
    """The name of its own has been made, and the node's is not there yet."""
    path = (*box.strip("/").split("/"), "never")

    def begin() -> None:
        space = Space(settings)
        if build == "container":
            space.create_container(ADA, path)
        else:
            space.create_link(ADA, path, path[:-1])

    def reserved() -> list[str]:
        return [name for name in os.listdir(root / box[1:]) if name.startswith(".vospace-")]

    for where in ("create", "staging"):
        module = f"vospace.{'space' if where == 'create' else 'storage'}.{where}"
        monkeypatch.setattr(f"{module}.rename_new", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    dying = multiprocessing.get_context("fork").Process(target=begin)
    dying.start()
    await asyncio.to_thread(dying.join)
    assert dying.exitcode == -signal.SIGKILL
    assert len(reserved()) == 1
    space = Space(settings)
    try:
        assert space.sweep(lambda: False) == 1
    finally:
        space.close()
    assert reserved() == []


async def test_a_container_with_a_dead_copy_in_it_can_be_deleted(client, ada, box, root, settings):
    left = root / box[1:] / "c/.vospace-copy-left"
    await client.put(f"/files{box}/f", content=b"x", headers=ada)
    left.mkdir(parents=True)
    (left / "f").write_bytes(b"x")
    os.chown(left.parent, 10001, 10001)
    with Locks(settings.vospace_base_dir).unused(left.name) as unused:
        assert unused
        answer = await client.delete(f"/nodes{box}/c", headers=ada)
        assert (answer.status_code, "is not empty" in answer.text) == (400, True)
    assert (await client.delete(f"/nodes{box}/c", headers=ada)).status_code == 200
    assert not left.parent.exists()
