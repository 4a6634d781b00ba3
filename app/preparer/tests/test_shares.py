"""What one user may take of the API: everybody else is served meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from aiohttp import web
from core_here import core
from preparer.api import body
from voservice.testing import database_url, postgres

__all__ = ["database_url", "postgres"]

MIB = 1 << 20
LIMIT = MIB


class Elements:
    """A storage element and a Cavern that know of nothing; counts what is asked."""

    def __init__(self) -> None:
        self.asked = self.at_once = self.most = 0
        self.full, self.going = asyncio.Event(), asyncio.Event()
        self.going.set()

    async def handle(self, request: web.Request) -> web.Response:
        if not request.path.startswith("/rse"):
            return web.Response(status=404, text="NodeNotFound: x")
        self.asked += 1
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        if self.at_once == 32:
            self.full.set()
        await self.going.wait()
        await asyncio.sleep(0)
        self.at_once -= 1
        return web.Response(headers={"Content-Length": "3"})


@pytest.fixture
async def elements() -> AsyncIterator[Elements]:
    elements = Elements()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", elements.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    elements.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield elements
    elements.going.set()
    await runner.cleanup()


@pytest.fixture
async def client(database_url: str, elements: Any) -> AsyncIterator[httpx.AsyncClient]:
    settings = {
        "CAVERN_API_URL": f"{elements.url}/cavern",
        "ABS_URL_RSE_ROOT": f"{elements.url}/rse",
        "PREPARER_MAX_BODY": str(LIMIT),
        "PREPARER_MAX_ITEMS": "3000",
        "PREPARER_MAX_RATE": "40",
        "PREPARER_ESTIMATE_RATE": "5",
        "PREPARER_ESTIMATE_FILES": "50",
        "PREPARER_USER_EVENTS": "2",
    }
    async with core(database_url, **settings) as (app, client):
        client.following = app.state.context.following
        yield client


def as_user(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}"}


def files(count: int, **more: Any) -> dict[str, Any]:
    return {"files": [{"did": f"testing:f{number}", **more} for number in range(count)]}


@pytest.mark.parametrize("key", ["k" * 256, "k" * 6000, "", "a b", "é"])
@pytest.mark.parametrize("path", ["/", "/v1/tasks"])
async def test_keys_have_a_length(client: httpx.AsyncClient, path: str, key: str) -> None:
    sent = as_user("ada") | {"Idempotency-Key": key.encode().decode("latin-1")}
    answer = await client.post(path, json=[], headers={k: v.encode("latin-1") for k, v in sent.items()})
    assert answer.status_code == 400
    assert answer.json()["detail"] == "Idempotency-Key: must be 1 to 255 visible ASCII characters"


async def test_a_key_of_the_longest_kind(client: httpx.AsyncClient) -> None:
    headers = as_user("ada") | {"Idempotency-Key": "~" * 255}
    first = await client.post("/v1/tasks", json=files(1), headers=headers)
    again = await client.post("/v1/tasks", json=files(1), headers=headers)
    assert (first.status_code, again.status_code) == (201, 200)


@pytest.mark.parametrize(
    "content",
    [
        b"[" + b"1" * 900_000 + b"]",
        b'{"files": [{"did": "a:b", "size": ' + b"9" * 900_000 + b"}]}",
        b'{"files": [{"did": "a:b", "size": 0.' + b"9" * 900_000 + b"}]}",
        b'{"files": [{"did": "a:b", "size": 1e999999999}]}',
        b'{"files": [{"did": "a:b", "size": NaN}]}',
        b'[["a:b", "x", Infinity]]',
        b"[" + b"[]," * 300_000 + b"[]]",
        b"[" + b"0," * 450_000 + b"0]",
        b"[" * 500_000,
        b'{"a":' * 150_000,
        b'"' + b"\\ud800" * 100_000 + b'"',
        json.dumps([["a" * 900_000, "b", "c"]]).encode(),
        json.dumps({"x" * 900_000: 1, "files": []}).encode(),
        json.dumps({"files": [{"did": "a" * 900_000}]}).encode(),
        json.dumps({"files": [{"did": "a:b"}], "approach": "x" * 900_000}).encode(),
    ],
)
async def test_a_body_of_any_shape_is_refused_in_few_words(client: httpx.AsyncClient, content: bytes) -> None:
    for path in ("/", "/v1/tasks", "/v1/estimate"):
        answer = await client.post(path, content=content, headers=as_user("ada"))
        assert answer.status_code in (413, 422), answer.text
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert len(answer.content) < 50_000


async def slowly(content: bytes, going: asyncio.Event) -> AsyncIterator[bytes]:
    yield content
    await going.wait()


async def test_a_user_has_so_much_on_the_way(client: httpx.AsyncClient) -> None:
    going = asyncio.Event()

    def send(user: str, size: int) -> asyncio.Task[httpx.Response]:
        sent = client.post("/", content=slowly(b" " * size, going), headers=as_user(user))
        return asyncio.create_task(sent)

    # Small ones count for nothing, however many they are.
    small = [send("ada", 60_000) for _ in range(20)]
    large = [send("ada", 900_000)]
    await asyncio.sleep(0.2)
    refused = await client.post("/", content=b" " * 400_000, headers=as_user("ada"))
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "5")
    large += [send("bob", 900_000)]
    await asyncio.sleep(0.2)
    assert (await client.post("/", content=b" " * 500_000, headers=as_user("eve"))).status_code == 503
    assert (await client.post("/v1/tasks", json=files(1), headers=as_user("eve"))).status_code == 201
    going.set()
    assert {answer.status_code for answer in await asyncio.gather(*small, *large)} == {422}
    assert (await client.post("/", content=b" " * 900_000, headers=as_user("ada"))).status_code == 422


async def test_a_body_has_its_time(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "LONGEST", 0.1)
    answer = await client.post("/", content=slowly(b"[", asyncio.Event()), headers=as_user("ada"))
    assert (answer.status_code, answer.json()["title"]) == (408, "Too slow")


async def test_requests_are_counted_before_they_are_read(client: httpx.AsyncClient) -> None:
    answers = [await client.post("/", content=b"x", headers=as_user("ada")) for _ in range(41)]
    assert [answer.status_code for answer in answers] == [422] * 40 + [429]
    assert (await client.post("/", content=b"x", headers=as_user("bob"))).status_code == 422


# -- estimates -----------------------------------------------------------------------------------------------


async def test_an_estimate_asks_of_so_many_files(client: httpx.AsyncClient, elements: Elements) -> None:
    answer = await client.post("/v1/estimate", json=files(51), headers=as_user("ada"))
    assert answer.status_code == 413
    assert answer.json()["detail"].startswith(
        "/files: the storage element would be asked of 51 files, 50 are"
    )
    assert elements.asked == 0
    answer = await client.post("/v1/estimate", json=files(2000, size=3), headers=as_user("ada"))
    assert (answer.status_code, answer.json()["bytes"], elements.asked) == (200, 6000, 0)
    answer = await client.post("/v1/estimate", json=files(50), headers=as_user("ada"))
    assert (answer.status_code, answer.json()["bytes"], elements.asked) == (200, 150, 50)


async def test_an_estimate_looks_into_so_many_containers(client: httpx.AsyncClient) -> None:
    wanted = {"files": [{"did": f"a:f{n}", "size": 1, "destination": f"d{n}"} for n in range(1001)]}
    answer = await client.post("/v1/estimate", json=wanted, headers=as_user("ada"))
    assert (answer.status_code, answer.json()["detail"].split(";")[0]) == (
        413,
        "/files: they go to 1001 containers, 1000 are the most",
    )


async def test_a_user_has_so_many_estimates(client: httpx.AsyncClient, elements: Elements) -> None:
    elements.going.clear()
    users = ("ada", "bob", "eve")
    sent = [client.post("/v1/estimate", json=files(40), headers=as_user(user)) for user in users]
    going = [asyncio.create_task(request) for request in sent]
    async with asyncio.timeout(60):
        await elements.full.wait()
    second = await client.post("/v1/estimate", json=files(1), headers=as_user("ada"))
    assert (second.status_code, second.json()["detail"].split(";")[0]) == (
        429,
        "An estimate of yours is being made",
    )
    elements.going.set()
    assert [answer.status_code for answer in await asyncio.gather(*going)] == [200] * 3
    assert elements.most == 32  # of all users
    answers = [await client.post("/v1/estimate", json=files(1), headers=as_user("ada")) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200] * 4 + [429]
    assert answers[-1].json()["detail"].startswith("At most 5 estimates a minute")


# -- event streams -------------------------------------------------------------------------------------------


async def test_a_user_has_so_many_event_streams(client: httpx.AsyncClient) -> None:
    task = (await client.post("/v1/tasks", json=files(1), headers=as_user("ada"))).json()["id"]
    events = f"/v1/tasks/{task}/events"

    def follow() -> asyncio.Task[httpx.Response]:
        return asyncio.create_task(client.get(events, headers=as_user("ada")))

    async def opened(count: int) -> None:
        async with asyncio.timeout(30):
            while client.following["ada"] != count:  # noqa: ASYNC110 - nobody tells of it
                await asyncio.sleep(0.01)

    left, stays = follow(), follow()
    await opened(2)
    refused = await client.get(events, headers=as_user("ada"))
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "5")
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json()["detail"].startswith("At most 2 event streams of one user (preparer_user_events);")
    # Nobody else's part is taken, and the task itself can be asked for.
    assert (await client.get(events, headers=as_user("bob"))).status_code == 404
    assert (await client.get(f"/v1/tasks/{task}", headers=as_user("ada"))).status_code == 200

    left.cancel()
    await opened(1)
    again = follow()
    await opened(2)
    assert (await client.post(f"/v1/tasks/{task}/cancel", headers=as_user("ada"))).status_code == 202
    for followed in (stays, again):
        assert "event: final" in (await followed).text
    await opened(0)
