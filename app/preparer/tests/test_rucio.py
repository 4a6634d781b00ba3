"""Datasets and containers by a real Rucio server on PostgreSQL: files, checksums, replicas, and who may ask."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import httpx
import pytest
from core_here import core
from prepare_data_client.did import DID
from preparer.api.resolution import resolve
from preparer.api.submission import Item, Submission
from preparer.config import PreparerSettings
from preparer.ledger import NewFile
from preparer.rucio import Rucio, path_below
from pydantic import ValidationError
from rucio_server import PASSWORD
from rucio_server import Rucio as Server
from rucio_server import rucio as serving
from voservice.problems import Forbidden, Invalid, TooLarge, Unavailable
from voservice.testing import database_url, new_database, postgres

__all__ = ["database_url", "postgres"]

MD5 = "a" * 32
RSES = [
    {"name": "A", "url": "https://a.example:1094/data"},
    {"name": "B", "url": "https://b.example/b", "layout": "identity"},
    {"name": "ODD", "url": "https://odd.example", "layout": "none"},
]


@pytest.fixture(scope="module")
def server(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with files on A, on B, and on FAR, which is none of the site's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        new_database(postgres) as database,
        serving(tmp_path_factory.mktemp("rucio"), database, port) as server,
    ):
        server.add_rse("A", "a.example", 1094, "/data/")
        server.add_rse("B", "elsewhere.example", 1094, "/other/", "root")
        server.add_rse("FAR", "far.example", 443, "/")
        server.ask("POST", "/scopes/root/testing")

        def files(*numbers: int) -> list[dict[str, Any]]:
            return [{"name": f"f{n}", "bytes": 10 + n, "adler32": f"{n:08x}", "md5": MD5} for n in numbers]

        server.add_files("A", "testing", files(0, 1, 5))
        server.add_files("B", "testing", files(0, 2))
        server.add_files("FAR", "testing", files(3, 4))
        server.add_files("A", "testing", files(3), state="C")
        server.add_collection("testing", "good", "DATASET", [("testing", f"f{n}") for n in (0, 1, 2)])
        server.add_collection("testing", "gone", "DATASET", [("testing", f"f{n}") for n in (0, 3, 4)])
        server.add_collection("testing", "both", "CONTAINER", [("testing", "good")])
        server.ask("POST", "/dids/testing/empty", {"type": "DATASET"})
        server.ask("POST", "/dids/testing/grows", {"type": "DATASET"})
        yield server


def settings_of(server: Server, **more: Any) -> PreparerSettings:
    known = {
        "preparer_rucio_url": server.url,
        "preparer_rucio_account": "root",
        "preparer_rucio_username": "site",
        "preparer_rucio_password": PASSWORD,
        "preparer_rses": RSES,
    }
    return PreparerSettings.model_validate(known | more)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


class Site:
    """Requests to a site that has a Rucio."""

    def __init__(self, settings: PreparerSettings, session: aiohttp.ClientSession) -> None:
        rucio = Rucio(settings, session, httpx.AsyncClient())
        self.shared: Any = SimpleNamespace(settings=settings, rucio=rucio, resolving=set())

    async def __call__(
        self, *dids: str | Item, user: str = "ada", bearer: str = "ada's", rse: str | None = None
    ) -> dict[str, NewFile]:
        """Return the files of a request by their DIDs."""
        who: Any = SimpleNamespace(token=bearer, identity=SimpleNamespace(username=user))
        submission = Submission(self.shared)
        items = [did if isinstance(did, Item) else Item(did, None, "run") for did in dids]
        found = await resolve(self.shared, who, items, submission.rses(rse))
        return {file.did: file for file in submission.check(who, found, "/files", rse)}


@pytest.fixture
def site(server: Server, session: aiohttp.ClientSession) -> Site:
    return Site(settings_of(server), session)


pytestmark = pytest.mark.slow


async def test_a_dataset_is_its_files_with_their_checksums_and_replicas(site: Site) -> None:
    for did in ("testing:good", "testing:both"):
        files = await site(did)
        assert list(files) == ["testing:f0", "testing:f1", "testing:f2"]
        first = files["testing:f0"]
        assert (first.size, first.adler32, first.md5) == (10, "00000000", MD5)
        assert first.target == "/home/ada/run/f0"
        assert first.path == DID.parse("testing:f0").path()
        assert [file.rse for file in files.values()] == ["A,B", "A", "B"]
        # By the layout of the RSE that has it, whatever path Rucio's own protocol has there.
        assert files["testing:f2"].path == "testing/f2"


async def test_a_request_may_name_the_rse_and_know_more(site: Site) -> None:
    files = await site("testing:f0", rse="B")
    assert (files["testing:f0"].rse, files["testing:f0"].path) == ("B", "testing/f0")
    with pytest.raises(Invalid, match="testing:f1 has no replica in the state AVAILABLE at B; it is at A"):
        await site("testing:good", rse="B")
    own = Item("testing:f0", DID.parse("testing:f0").path(), ".", md5="b" * 32)
    assert (await site(own))["testing:f0"].md5 == "b" * 32
    # What has a path of its own is no matter of Rucio's.
    assert (await site(Item("testing:unknown", "odd/place", "."), rse="ODD"))["testing:unknown"].size is None


async def test_a_replica_at_another_place_than_the_layout_gives_is_taken_there(
    server: Server, session: aiohttp.ClientSession
) -> None:
    rse = {"name": "A", "url": "https://a.example:1094/data", "layout": "none"}
    site = Site(settings_of(server, preparer_rses=[rse, RSES[1]]), session)
    file = (await site("testing:f0"))["testing:f0"]
    assert (file.rse, file.path) == ("A", DID.parse("testing:f0").path())


async def test_what_cannot_be_had_is_named(site: Site) -> None:
    with pytest.raises(Invalid) as refused:
        await site("testing:f0", "testing:gone")
    errors = refused.value.members["errors"]
    assert [error["pointer"] for error in errors] == ["/files/1/did"] * 2
    # Being copied is not there.
    assert errors[0]["detail"] == (
        "testing:f3 has no replica in the state AVAILABLE at A, B, ODD; it is at FAR"
    )
    with pytest.raises(Invalid, match="/files/0/did: Rucio does not know testing:none"):
        await site("testing:none")
    with pytest.raises(Invalid, match="/files/0/did: testing:empty has no files"):
        await site("testing:empty")
    with pytest.raises(Invalid, match="/files/1/did: is the same file as item 0"):
        await site("testing:good", "testing:f0")


async def test_a_dataset_may_be_too_large(server: Server, session: aiohttp.ClientSession) -> None:
    site = Site(settings_of(server, preparer_max_items=2), session)
    with pytest.raises(TooLarge, match="more than 2 files"):
        await site("testing:good")
    with pytest.raises(TooLarge, match="more than 2 files"):
        await site("testing:f0", "testing:gone")


async def test_the_caller_must_be_known_to_rucio(server: Server, site: Site) -> None:
    with pytest.raises(Forbidden, match="Rucio has no account eve"):
        await site("testing:good", user="eve")
    with pytest.raises(Forbidden, match="Rucio has no account"):
        await site("testing:good", user="../dids")
    server.ask("PUT", "/accounts/bob", {"status": "SUSPENDED"})
    with pytest.raises(Forbidden, match="Rucio's account bob is SUSPENDED"):
        await site("testing:good", user="bob")


async def test_without_an_account_of_its_own_rucio_decides_by_the_users_token(
    server: Server, session: aiohttp.ClientSession
) -> None:
    own = {"preparer_rucio_account": "", "preparer_rucio_username": "", "preparer_rucio_password": ""}
    site = Site(settings_of(server, **own), session)
    assert len(await site("testing:good", bearer=str(server._http.headers["X-Rucio-Auth-Token"]))) == 3
    with pytest.raises(Forbidden, match="Rucio refuses"):
        await site("testing:good", bearer="made up")


async def test_a_token_that_rucio_forgot_is_had_anew(site: Site) -> None:
    await site("testing:f0")
    site.shared.rucio._token = "root-site-unknown-0123"
    assert await site("testing:f0")


async def test_a_rucio_that_is_away_is_told(server: Server, session: aiohttp.ClientSession) -> None:
    away = Site(settings_of(server, preparer_rucio_url="http://127.0.0.1:1"), session)
    with pytest.raises(Unavailable, match="Rucio does not answer"):
        await away("testing:f0")
    wrong = Site(settings_of(server, preparer_rucio_password="wrong"), session)
    with pytest.raises(Unavailable, match="Rucio refuses the account root of this service: HTTP 401"):
        await wrong("testing:f0")
    with pytest.raises(ValidationError, match="give all three"):
        settings_of(server, preparer_rucio_username="")


class Silent:
    """A Rucio of which nothing may be asked."""

    async def check_user(self, username: str, token: str) -> None:
        raise AssertionError("Rucio was asked")


async def test_a_dataset_is_requested_of_the_api(server: Server, database_url: str) -> None:
    """A task with a line of the answer for each file; the seed's call takes its three values as they are."""
    settings = {
        "PREPARER_RUCIO_URL": server.url,
        "PREPARER_RUCIO_ACCOUNT": "root",
        "PREPARER_RUCIO_USERNAME": "site",
        "PREPARER_RUCIO_PASSWORD": PASSWORD,
        "PREPARER_RSES": json.dumps(RSES),
    }
    async with core(database_url, "ada", **settings) as (app, client):
        # As the client sends it, which cannot tell a dataset from a file.
        did = DID.parse("testing:good")
        body = {"files": [{"did": str(did), "path": did.path()}], "destination": "run"}
        made = await client.post("/v1/tasks", json=body)
        assert (made.status_code, made.json()["files"]) == (201, 3), made.text
        files = (await client.get(f"/v1/tasks/{made.json()['id']}/files")).json()["files"]
        assert [(file["did"], file["rse"], file["size"]) for file in files] == [
            ("testing:f0", "A,B", 10),
            ("testing:f1", "A", 11),
            ("testing:f2", "B", 12),
        ]
        # The same request is the same task, and needs no Rucio; neither does one too many.
        resolver, app.state.context.rucio = app.state.context.rucio, Silent()
        again = await client.post("/v1/tasks", json=body)
        assert (again.status_code, again.json()["id"]) == (200, made.json()["id"])
        keyed = {"Idempotency-Key": "k"}
        app.state.context.settings.preparer_max_active = 1
        assert (await client.post("/v1/tasks", json=body | {"destination": "b"})).status_code == 429
        app.state.context.settings.preparer_max_active = 1000
        app.state.context.rucio = resolver
        assert (
            await client.post("/v1/tasks", json=body | {"destination": "c"}, headers=keyed)
        ).status_code == 201
        server.add_files("A", "testing", [{"name": "f9", "bytes": 9, "adler32": "00000009", "md5": MD5}])
        members = {"dids": [{"scope": "testing", "name": "f9"}]}
        server.ask("POST", "/dids/testing/grows/dids", members)
        grown = {"files": [{"did": "testing:grows"}]}
        first = await client.post("/v1/tasks", json=grown, headers={"Idempotency-Key": "g"})
        server.ask("POST", "/dids/testing/grows/dids", {"dids": [{"scope": "testing", "name": "f0"}]})
        second = await client.post("/v1/tasks", json=grown, headers={"Idempotency-Key": "g"})
        assert (first.status_code, second.status_code) == (201, 200), second.text
        assert first.json()["id"] == second.json()["id"]
        changed = await client.post("/v1/tasks", json={"files": [{"did": "testing:f0"}]}, headers=keyed)
        assert changed.status_code == 409
        refused = await client.post("/v1/tasks", json={"files": [{"did": "testing:gone"}]})
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/files/0/did")
        other = {"Authorization": "Bearer eve"}
        assert (await client.post("/v1/tasks", json=body, headers=other)).status_code == 403
        seed = [["testing:unknown", DID.parse("testing:unknown").path(), "./run"]]
        assert (await client.post("/", json=seed)).status_code == 200


def test_the_path_of_a_replica_is_the_same_by_every_protocol() -> None:
    for url in ("root://a.example//data/s/f", "davs://a.example:443/data/s/f"):
        assert path_below("https://a.example:1094/data", url) == "s/f"
    assert path_below("https://a.example", "https://a.example/s/f") == "s/f"
    assert path_below("https://a.example/data", "https://a.example/database/f") is None
