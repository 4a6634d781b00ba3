"""Allocations of a site that gives them to members of a group, with a quota."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from vospace.config import Settings

CORE = "ivo://ivoa.net/vospace/core#"
TEAM = "ivo://opencadc.org/gms?team"
ADMIN = {"Authorization": "Bearer cavernadmin"}


@pytest.fixture
def site(settings: Settings, names) -> Settings:
    return settings.model_copy(
        update={
            "vospace_sub_path": names(),
            "vospace_root_writers": [],
            "vospace_self_allocate": "groups",
            "vospace_self_allocate_groups": [TEAM],
            "vospace_default_quota_bytes": 5000,
        }
    )


@pytest.fixture
async def client(site: Settings, running) -> AsyncIterator[httpx.AsyncClient]:
    async with running(site) as client:
        yield client


@pytest.fixture
def home(site: Settings) -> Path:
    return site.root / "home"


async def make(client: httpx.AsyncClient, path: str, content: bytes, headers: dict[str, str]) -> int:
    return (await client.put(f"/nodes{path}", content=content, headers=headers)).status_code


async def test_members_allocate_what_has_their_name(client, ada, bob, document, home):
    container = document("ContainerNode")
    assert await make(client, "/home/ada", container, ada) == 403  # no member
    assert await make(client, "/home/bob", container, {}) == 403
    assert await make(client, "/home/other", container, bob) == 403
    assert await make(client, "/home/bob", document("DataNode"), bob) == 403
    assert (await client.put("/files/home/bob", content=b"x", headers=bob)).status_code == 403
    assert await make(client, "/top", container, bob) == 403
    assert os.listdir(home) == []
    answer = await client.put("/nodes/home/bob", content=container, headers=bob)
    assert answer.status_code == 201
    assert f'{CORE}quota" readOnly="true">5000<' in answer.text
    assert (home / "bob").stat().st_uid == 10002
    assert await make(client, "/home/bob", container, bob) == 409
    assert (await client.delete("/nodes/home/bob", headers=ada)).status_code == 403


async def test_the_owner_of_an_allocation_may_all_in_it_and_the_admin_may_not(
    client, ada, bob, document, home
):
    given = document("ContainerNode", properties={f"{CORE}creator": "bob"})
    assert await make(client, "/projects/p", given, ADMIN) == 201
    writable = {f"{CORE}groupwrite": TEAM, f"{CORE}ispublic": "true"}
    answer = await client.post(
        "/nodes/projects/p", content=document("ContainerNode", properties=writable), headers=bob
    )
    assert answer.status_code == 200
    assert await make(client, "/projects/p/x", document("ContainerNode"), bob) == 201
    inside = home.parent / "projects/p/x"
    os.chown(inside, 10001, 10001)  # as one made by another member
    (inside / "f").write_bytes(b"ada's")
    os.chown(inside / "f", 10001, 10001)
    (inside / "f").chmod(0o600)
    assert (await client.get("/files/projects/p/x/f", headers=bob)).text == "ada's"
    for refused in (
        await client.get("/files/projects/p/x/f", headers=ADMIN),
        await client.put("/files/projects/p/x/f", content=b"", headers=ADMIN),
        await client.delete("/nodes/projects/p/x/f", headers=ADMIN),
    ):
        assert refused.status_code == 403
    assert (await client.delete("/nodes/projects/p/x/f", headers=bob)).status_code == 200


async def test_quotas(client, ada, bob, document, home):
    """Set by the admin alone, kept before and during a write, told in the words of Cavern."""
    assert await make(client, "/home/bob", document("ContainerNode"), bob) == 201
    key = f"{CORE}quota"
    for headers in (bob, ada):
        more = document("ContainerNode", properties={key: "9000"})
        answer = await client.post("/nodes/home/bob", content=more, headers=headers)
        assert answer.status_code == (200 if headers is bob else 403)
        assert ">9000<" not in answer.text

    async def pieces(count: int):
        for _ in range(count):
            yield b"x" * 1000

    for content in (b"x" * 5001, pieces(6)):
        answer = await client.put("/files/home/bob/f", content=content, headers=bob)
        assert (answer.status_code, answer.text) == (413, "limit: 5000\n")
    assert os.listdir(home / "bob") == []
    assert (await client.put("/files/home/bob/f", content=pieces(5), headers=bob)).status_code == 201
    assert (await client.put("/files/home/bob/g", content=b"x", headers=bob)).status_code == 413
    more = document("ContainerNode", properties={key: "9000"})
    answer = await client.post("/nodes/home/bob", content=more, headers=ADMIN)
    assert (answer.status_code, f'{key}" readOnly="true">9000<' in answer.text) == (200, True)
    assert (await client.put("/files/home/bob/g", content=pieces(3), headers=bob)).status_code == 201
    for wrong in ("-1", "many", "1e3", "9" * 30):
        answer = await client.post(
            "/nodes/home/bob", content=document("ContainerNode", properties={key: wrong}), headers=ADMIN
        )
        assert (answer.status_code, "quota must be a number of bytes" in answer.text) == (400, True)
    none = document("ContainerNode", properties={key: None})
    assert key not in (await client.post("/nodes/home/bob", content=none, headers=ADMIN)).text
    assert (await client.put("/files/home/bob/h", content=pieces(20), headers=bob)).status_code == 201
