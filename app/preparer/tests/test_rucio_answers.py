"""Answers that a Rucio should never give, and how much one request may ask of it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import httpx
import pytest
from aiohttp import web
from prepare_data_client.did import DID
from preparer.api.resolution import resolve
from preparer.api.submission import Item, Submission
from preparer.config import PreparerSettings
from preparer.ledger import NewFile
from preparer.rucio import Rucio, path_below
from pydantic import ValidationError
from voservice.problems import Forbidden, Invalid, TooLarge, TooMany, Unavailable

RSES = [
    {"name": "A", "url": "https://a.example:1094/data"},
    {"name": "B", "url": "https://b.example/b", "layout": "identity"},
    {"name": "ODD", "url": "https://odd.example", "layout": "none"},
]


class Server:
    """Answers with the lines that a test wants: by default ada's account, and every DID as a file on A."""

    def __init__(self) -> None:
        """Count requests by the first word of their path."""
        self.asked: Counter[str] = Counter()
        self.account: Any = [{"account": "ada", "status": "ACTIVE"}]
        self.sets: dict[str, list[str]] = {}
        self.replica: dict[str, Any] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.arrived = asyncio.Event()
        self.url = ""
        # As an issuer, at /issuer: what it was asked for, and the errors of subjects that it refuses.
        self.forms: list[dict[str, Any]] = []
        self.refused: dict[str, str] = {}
        # Tokens with which Rucio was asked, and those that it does not know.
        self.tokens: list[str] = []
        self.unknown: set[str] = set()

    async def grant(self, request: web.Request) -> web.Response:
        url = f"{self.url}/issuer"
        if request.path.endswith("openid-configuration"):
            return web.json_response(
                {"issuer": url, "jwks_uri": f"{url}/jwks", "token_endpoint": f"{url}/token"}
            )
        if request.path.endswith("jwks"):
            key = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
            return web.json_response({"keys": [key]})
        self.forms.append(dict(await request.post()))
        if code := self.refused.get(self.forms[-1].get("subject_token", "")):
            return web.json_response({"error": code}, status=400)
        return web.json_response({"access_token": f"token-{len(self.forms)}", "expires_in": 3600})

    async def handle(self, request: web.Request) -> web.Response:
        if request.path.startswith("/issuer"):
            return await self.grant(request)
        self.tokens.append(request.headers["X-Rucio-Auth-Token"])
        if self.tokens[-1] in self.unknown:
            return web.Response(status=401)
        self.arrived.set()
        await self.gate.wait()
        kind = request.path.strip("/").split("/")[0] + ("/files" if request.path.endswith("/files") else "")
        self.asked[kind] += 1
        if kind == "accounts":
            return self.lines(self.account)
        if kind == "dids/files":
            _, scope, name, _ = request.path.strip("/").split("/")
            return self.lines([{"scope": scope, "name": inner} for inner in self.sets[name]])
        dids = (await request.json())["dids"]
        if kind == "dids":
            return self.lines([did | {"did_type": self.kind(did["name"])} for did in dids])
        url = "https://a.example:1094/data/" + "{}"
        return self.lines(
            [
                did
                | {"rses": {"A": [url.format(DID(**did).path())]}, "states": {"A": "AVAILABLE"}}
                | self.replica
                for did in dids
            ]
        )

    def kind(self, name: str) -> str:
        return "DATASET" if name in self.sets else "FILE"

    @staticmethod
    def lines(documents: Any) -> web.Response:
        if isinstance(documents, str):
            return web.Response(text=documents)
        return web.Response(text="\n".join(map(json.dumps, documents)))


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


class Site:
    """Requests to a site that has this Rucio."""

    def __init__(self, server: Server, session: aiohttp.ClientSession, **more: Any) -> None:
        known = {"preparer_rucio_url": server.url, "preparer_rses": RSES}
        settings = PreparerSettings.model_validate(known | more)
        rucio = Rucio(settings, session, httpx.AsyncClient())
        self.shared: Any = SimpleNamespace(settings=settings, rucio=rucio, resolving=set())

    async def __call__(self, *dids: str, user: str = "ada", mounted: bool = False) -> list[NewFile]:
        who: Any = SimpleNamespace(token="its", identity=SimpleNamespace(username=user))
        submission = Submission(self.shared)
        items = [Item(did, None, f"run/{number}") for number, did in enumerate(dids)]
        found = await resolve(self.shared, who, items, submission.rses(None), mounted=mounted)
        return submission.check(who, found, "/files", mounted=mounted)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def site(server: Server, session: aiohttp.ClientSession) -> Site:
    return Site(server, session)


@pytest.mark.parametrize(
    ("account", "error"),
    [
        ("", Unavailable),
        ("\n\n", Unavailable),
        ("nonsense", Unavailable),
        ("[]", Unavailable),
        ([{"account": "ada"}], Unavailable),
        ([{"status": "ACTIVE"}], Unavailable),
        ([{"account": "eve", "status": "ACTIVE"}], Unavailable),
        ([{"account": "ada", "status": "ACTIVE"}, {"account": "eve", "status": "ACTIVE"}], Unavailable),
        ([{"account": "ada", "status": ["ACTIVE"]}], Unavailable),
        ([{"account": "ada", "status": "active"}], Forbidden),
        ([{"account": "ada", "status": ""}], Forbidden),
    ],
)
async def test_whoever_is_not_said_to_have_an_active_account_is_refused(
    site: Site, server: Server, account: Any, error: type[Exception]
) -> None:
    server.account = account
    with pytest.raises(error, match="account"):
        await site("s:f")
    assert server.asked == {"accounts": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"scope": None},
        {"name": 7},
        {"bytes": -1},
        {"bytes": "many"},
        {"bytes": 2**63},
        {"md5": "a" * 31},
        {"adler32": "xyz"},
        {"rses": []},
        {"rses": {"A": "https://a.example/f"}},
        {"rses": {"A": [None]}},
        {"states": {"A": None}},
    ],
)
async def test_a_line_that_cannot_be_read_is_named(
    site: Site, server: Server, change: dict[str, Any]
) -> None:
    server.replica = change
    with pytest.raises(
        Unavailable, match=f"Rucio's answer to POST replicas cannot be read: {next(iter(change))}"
    ):
        await site("s:f")


async def test_what_rucio_does_not_know_of_a_file_may_be_null_or_empty(site: Site, server: Server) -> None:
    for unknown in (None, ""):
        server.replica = {"bytes": None, "md5": unknown, "adler32": unknown, "states": None}
        (file,) = await site("s:f")
        assert (file.size, file.md5, file.adler32, file.rse) == (None, None, None, "A")


@pytest.mark.parametrize("url", ["https://[a.example/data/x", "https://a.example:1094/data/odd/f", "", "x"])
async def test_a_replica_elsewhere_than_its_layout_says_is_passed_over(
    site: Site, server: Server, url: str
) -> None:
    """Unless its RSE has no layout. What is not below the RSE's own URL tells nothing of where it is there."""
    odd = "https://a.example:1094/data/odd/f"
    server.replica = {"rses": {"A": [odd], "B": [url]}, "states": {}}
    if url == odd:
        server.replica["rses"]["B"] = ["https://b.example/b/odd/f"]
        with pytest.raises(
            Invalid, match="/files/0/did: s:f has no replica in the state AVAILABLE at A, B, ODD"
        ):
            await site("s:f")
    else:
        (file,) = await site("s:f")
        assert (file.rse, file.path) == ("B", "s/f")
    server.replica["rses"]["ODD"] = ["https://odd.example/odd/place"]
    server.replica["rses"]["B"] = ["https://b.example/b/odd/f"]
    (file,) = await site("s:f")
    assert (file.rse, file.path) == ("ODD", "odd/place")
    server.replica["rses"]["ODD"] = ["https://odd.example/../%2e%2e/f"]
    with pytest.raises(Invalid, match="s:f has no replica"):
        await site("s:f")


async def test_each_did_is_asked_of_once(site: Site, server: Server) -> None:
    server.sets["run"] = ["f0", "f1"]
    files = await site(*["s:run"] * 50, "s:f2")
    assert len(files) == 101
    assert server.asked == {"accounts": 1, "dids": 1, "dids/files": 1, "replicas": 1}


async def test_a_request_may_have_so_many_datasets(server: Server, session: aiohttp.ClientSession) -> None:
    server.sets = {f"run{number}": ["f"] for number in range(3)}
    site = Site(server, session, preparer_max_collections=2)
    assert len(await site("s:run0", "s:run1", "s:run0", "s:f")) == 4
    server.asked.clear()
    with pytest.raises(TooLarge, match="has 3 datasets and containers, 2 are the most"):
        await site("s:run0", "s:run1", "s:run2")
    assert server.asked == {"accounts": 1, "dids": 1}


async def test_one_request_of_a_user_is_resolved_at_a_time(site: Site, server: Server) -> None:
    server.gate.clear()
    first = asyncio.create_task(site("s:f"))
    await server.arrived.wait()
    with pytest.raises(TooMany, match="another request of yours"):
        await site("s:f")
    server.account = [{"account": "bob", "status": "ACTIVE"}]
    other = asyncio.create_task(site("s:f", user="bob"))
    first.cancel()
    await asyncio.wait([first])
    server.gate.set()
    assert len(await other) == 1
    server.account = [{"account": "ada", "status": "ACTIVE"}]
    assert len(await site("s:f")) == 1


def test_a_url_that_is_none_is_nowhere() -> None:
    assert path_below("https://a.example/data", "https://[a.example/data/x") is None


def oauth(server: Server, **more: Any) -> dict[str, Any]:
    """Settings of an OAuth client at the server's issuer."""
    return {"oidc_issuer": f"{server.url}/issuer", "service_client_secret": "its-secret", **more}


WANTED = {"preparer_rucio_audience": "rucio", "preparer_rucio_scope": "openid profile"}


async def test_with_an_account_alone_rucio_is_asked_with_a_token_of_the_issuer(
    server: Server, session: aiohttp.ClientSession
) -> None:
    site = Site(server, session, **oauth(server, preparer_rucio_account="prepare-data", **WANTED))
    await site("s:f")
    await site("s:f", user="ada")
    granted = {"grant_type": "client_credentials", "audience": "rucio", "scope": "openid profile"}
    assert server.forms == [granted]
    assert set(server.tokens) == {"token-1"}
    # Rucio may know it no longer: another one is got, once.
    server.unknown = {"token-1"}
    await site("s:f")
    assert server.forms == [granted] * 2
    assert server.tokens[-1] == "token-2"
    server.unknown = {"token-2", "token-3"}
    with pytest.raises(Unavailable, match=r"Rucio refuses the token that the client .* has .*: HTTP 401"):
        await site("s:f")


async def test_tokens_of_users_are_exchanged_for_rucios_audience(
    server: Server, session: aiohttp.ClientSession
) -> None:
    site = Site(server, session, **oauth(server, **WANTED))
    await site("s:f")
    await site("s:f")
    (form,) = server.forms
    assert (form["subject_token"], form["audience"], form["scope"]) == ("its", "rucio", "openid profile")
    assert set(server.tokens) == {"token-1"}


async def test_whose_token_is_not_exchanged_is_told_why(
    server: Server, session: aiohttp.ClientSession
) -> None:
    site = Site(server, session, **oauth(server, **WANTED))
    server.refused = {"its": "invalid_grant"}
    with pytest.raises(Forbidden, match="no token for Rucio: The issuer refused"):
        await site("s:f")
    other = Site(
        server, session, **oauth(server, preparer_rucio_account="x", oidc_issuer="http://127.0.0.1:1")
    )
    with pytest.raises(Unavailable, match="no token for Rucio: The issuer"):
        await other("s:f")
    assert server.tokens == []


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"preparer_rucio_username": "site", "preparer_rucio_password": "p"}, "give all three"),
        ({"preparer_rucio_account": "site", "preparer_rucio_username": "site"}, "give all three"),
        ({"preparer_rucio_account": "site", "preparer_rucio_password": "p"}, "give all three"),
        (
            {
                "preparer_rucio_account": "site",
                "preparer_rucio_username": "site",
                "preparer_rucio_password": "p",
                **WANTED,
            },
            "no token is needed",
        ),
    ],
)
def test_it_is_plain_who_asks(settings: dict[str, str], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        PreparerSettings.model_validate(settings)
