"""Storage elements are asked with their credentials over TLS, and nobody else ever gets those."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from pydantic import TypeAdapter, ValidationError
from storage_double import Authority, StorageDouble, redirect
from voservice.sources import SourcePolicy, SourceRefused, confidential_base
from voservice.storage_elements import (
    CredentialRefused,
    CredentialUnavailable,
    Elements,
    StorageElement,
    StorageElements,
    credentials,
)
from voservice.storage_elements.credentials import Watched


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def make_storage(authority: Authority) -> AsyncIterator[Callable[..., Any]]:
    made: list[StorageDouble] = []

    async def make(*, tls: bool = True) -> StorageDouble:
        storage = StorageDouble(authority if tls else None)
        await storage.start()
        storage.files["/data/f"] = b"content"
        made.append(storage)
        return storage

    yield make
    for storage in made:
        await storage.stop()


@pytest.fixture
async def storage(make_storage: Callable[..., Any]) -> StorageDouble:
    found: StorageDouble = await make_storage()
    return found


def session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=connector)


@asynccontextmanager
async def asking(
    storage: StorageDouble, authority: Authority, deployment_issuer: str = "", **settings: Any
) -> AsyncIterator[Callable[..., Any]]:
    """How a client asks a storage element for its file."""
    known = {"name": "A", "url": f"{storage.url}/data", "ca_file": str(authority.file)} | settings
    async with Elements([StorageElement(**known)], session, issuer=deployment_issuer) as elements:

        async def ask(**options: Any) -> tuple[int, bytes]:
            url = f"{storage.url}/data/f"
            answer = await elements.of(url).ask("GET", url, {}, **options)
            async with answer:
                return answer.status, await answer.read()

        yield ask


async def test_it_is_verified_by_its_own_authorities(
    storage: StorageDouble, authority: Authority, tmp_path: Path
) -> None:
    async with asking(storage, authority) as ask:
        assert await ask() == (200, b"content")
    async with asking(storage, Authority(tmp_path, "another")) as ask:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await ask()
    async with asking(storage, authority, ca_file=None) as ask:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await ask()


async def test_a_token_is_read_again_when_its_file_was_replaced(
    storage: StorageDouble, authority: Authority, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    async with asking(storage, authority, credential="token_file", credential_file=str(file)) as ask:
        with pytest.raises(CredentialUnavailable, match="/token: No such file"):
            await ask()
        file.write_text("first\n")
        await ask()
        new = tmp_path / "new"
        new.write_text("second")
        new.replace(file)
        await ask()
        file.write_text("")
        with pytest.raises(CredentialUnavailable, match="is empty"):
            await ask()
        file.write_text("a b")
        with pytest.raises(CredentialUnavailable, match="more than one word"):
            await ask()
    assert storage.tokens == ["Bearer first", "Bearer second"]


async def test_a_credential_goes_to_the_storage_element_alone(
    make_storage: Callable[..., Any], storage: StorageDouble, authority: Authority, tmp_path: Path
) -> None:
    """Not to a pool, not to another path of its own host, and not for who is not trusted with it."""
    pool = await make_storage()
    pool.files["/once"] = b"from the pool"
    storage.files["/elsewhere/f"] = b"beside"
    (tmp_path / "token").write_text("secret")
    options = {"credential": "token_file", "credential_file": str(tmp_path / "token")}
    options |= {"redirects": [pool.url, f"{storage.url}/elsewhere"]}
    async with asking(storage, authority, **options) as ask:
        storage.answer = lambda request: redirect(f"{pool.url}/once?ticket=1")
        assert await ask() == (200, b"from the pool")
        assert (storage.tokens, pool.tokens) == (["Bearer secret"], [None])
        storage.answer = lambda request: (
            redirect("/elsewhere/f") if request.path.startswith("/data") else None
        )
        assert await ask() == (200, b"beside")
        assert storage.tokens[-2:] == ["Bearer secret", None]
        await ask(trusted=False)
        assert storage.tokens[-2:] == [None, None]
        storage.answer = lambda request: redirect("https://127.0.0.1:1/x")
        with pytest.raises(SourceRefused):
            await ask()


async def test_a_proxy_certificate_is_shown_to_the_storage_element_alone_and_renewed(
    make_storage: Callable[..., Any], storage: StorageDouble, authority: Authority, tmp_path: Path
) -> None:
    pool = await make_storage()
    pool.files["/once"] = b"from the pool"
    proxy = tmp_path / "proxy.pem"
    authority.issue("ada").replace(proxy)
    options = {"credential": "x509_proxy", "credential_file": str(proxy), "redirects": [pool.url]}
    async with asking(storage, authority, **options) as ask:
        await ask()
        authority.issue("bob").replace(proxy)
        storage.answer = lambda request: redirect(f"{pool.url}/once")
        assert await ask() == (200, b"from the pool")
        await ask(trusted=False)
        proxy.write_text("nonsense")
        with pytest.raises(CredentialUnavailable, match="is not a valid proxy"):
            await ask()
        authority.issue("eve").replace(proxy)
        await ask()
    assert storage.names == ["ada", "bob", None, "eve"]
    assert pool.names == [None, None, None]


class Issuer(StorageDouble):
    """Grants tokens with a number each."""

    def __init__(self) -> None:
        """Nothing is granted yet."""
        super().__init__(None)
        self.forms: list[dict[str, Any]] = []
        self.refuses = False
        self.refused: dict[str, str | None] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.waiting = asyncio.Event()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.path.endswith("openid-configuration"):
            names = {"jwks_uri": "jwks", "token_endpoint": "token"}
            found = {name: f"{self.url}/{path}" for name, path in names.items()}
            return web.json_response({"issuer": self.url, **found})
        if request.path == "/jwks":
            key = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
            return web.json_response({"keys": [key]})
        self.forms.append(dict(await request.post()))
        subject = self.forms[-1].get("subject_token", "")
        if subject in self.gates:
            self.waiting.set()
            await self.gates[subject].wait()
        if subject in self.refused:
            code = self.refused[subject]
            return web.json_response({"error": code} if code else {}, status=400)
        if self.refuses:
            return web.json_response({"error": "invalid_scope"}, status=400)
        return web.json_response({"access_token": f"token-{len(self.forms)}", "expires_in": 3600})


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    await issuer.start()
    yield issuer
    await issuer.stop()


@pytest.fixture
def client(tmp_path: Path) -> dict[str, Any]:
    """Settings of an OAuth client."""
    (tmp_path / "secret").write_text("s3cret\n")
    wanted = {"audience": "https://rse.example", "scope": "storage.read:/ offline"}
    return {"client_id": "site", "credential_file": str(tmp_path / "secret"), **wanted}


async def test_a_client_gets_a_token_for_the_audience_and_scopes(
    storage: StorageDouble, authority: Authority, issuer: Issuer, client: dict[str, Any]
) -> None:
    options = {"credential": "client_credentials", **client}
    async with asking(storage, authority, issuer.url, **options) as ask:
        await ask()
        await ask()
        assert storage.tokens == ["Bearer token-1"] * 2
        form = {"grant_type": "client_credentials", "audience": client["audience"], "scope": client["scope"]}
        assert issuer.forms == [form]
        # Withdrawn before its time.
        storage.answer = lambda request: (
            web.Response(status=401) if request.headers["Authorization"].endswith("token-1") else None
        )
        assert await ask() == (200, b"content")
        storage.answer = lambda request: web.Response(status=401)
        assert await ask() == (401, b"")
        assert len(issuer.forms) == 3
        issuer.refuses = True
        with pytest.raises(CredentialUnavailable, match="refused client_credentials: 400 invalid_scope"):
            await ask()


async def test_each_users_token_is_exchanged_once(
    storage: StorageDouble, authority: Authority, issuer: Issuer, client: dict[str, Any]
) -> None:
    options = {"credential": "token_exchange", "issuer": issuer.url, **client}
    async with asking(storage, authority, "https://unused.example", **options) as ask:
        for user in ("ada's", "bob's", "ada's"):
            await ask(user=user)
        with pytest.raises(CredentialUnavailable, match="no token of a user"):
            await ask()
    assert storage.tokens == [f"Bearer token-{number}" for number in (1, 2, 1)]
    assert [form["subject_token"] for form in issuer.forms] == ["ada's", "bob's"]
    assert {form["audience"] for form in issuer.forms} == {client["audience"]}


async def test_a_users_refused_token_is_that_users_matter(
    storage: StorageDouble, authority: Authority, issuer: Issuer, client: dict[str, Any], monkeypatch: Any
) -> None:
    """Each of many files does not ask again; after a while, or with another token, it may succeed."""
    issuer.refused = {"ada's": "invalid_grant"}
    async with asking(storage, authority, issuer.url, credential="token_exchange", **client) as ask:
        for _ in range(3):
            with pytest.raises(CredentialRefused, match="400 invalid_grant"):
                await ask(user="ada's")
        assert len(issuer.forms) == 1
        assert await ask(user="bob's") == (200, b"content")
        issuer.refused.clear()
        assert await ask(user="ada's new") == (200, b"content")
        with pytest.raises(CredentialRefused):
            await ask(user="ada's")
        later = time.monotonic() + credentials.REFUSED
        monkeypatch.setattr(credentials, "monotonic", lambda: later)
        assert await ask(user="ada's") == (200, b"content")


@pytest.mark.parametrize("code", ["invalid_client", "unauthorized_client", "unsupported_grant_type", None])
async def test_a_refused_client_is_everybodys_matter(
    storage: StorageDouble, authority: Authority, issuer: Issuer, client: dict[str, Any], code: str | None
) -> None:
    issuer.refused = {"ada's": code}
    async with asking(storage, authority, issuer.url, credential="token_exchange", **client) as ask:
        with pytest.raises(CredentialUnavailable, match=code or "without a token"):
            await ask(user="ada's")
        issuer.refused.clear()
        assert await ask(user="ada's") == (200, b"content")


async def test_nobody_waits_for_anothers_exchange(
    storage: StorageDouble, authority: Authority, issuer: Issuer, client: dict[str, Any]
) -> None:
    async with asking(storage, authority, issuer.url, credential="token_exchange", **client) as ask:
        assert await ask(user="ada's") == (200, b"content")
        gate = issuer.gates["bob's"] = asyncio.Event()
        waiting = [asyncio.create_task(ask(user="bob's")) for _ in range(3)]
        await issuer.waiting.wait()
        async with asyncio.timeout(20):
            assert await ask(user="ada's") == (200, b"content")
            assert await ask(user="eve's") == (200, b"content")
        waiting[0].cancel()
        await asyncio.wait(waiting[:1])
        gate.set()
        assert await asyncio.gather(*waiting[1:]) == [(200, b"content")] * 2
    # Who waited for an exchange that was given up makes another, once.
    assert [form["subject_token"] for form in issuer.forms].count("bob's") == 2


async def test_there_are_no_more_connections_than_may_be(
    storage: StorageDouble, authority: Authority
) -> None:
    storage.delay = 0.02
    async with asking(storage, authority, connections=2) as ask:
        await asyncio.gather(*(ask() for _ in range(8)))
    assert storage.most_open == 2


async def test_there_are_no_more_requests_a_second_than_may_be(
    storage: StorageDouble, authority: Authority
) -> None:
    began = time.monotonic()
    async with asking(storage, authority, rate=100) as ask:
        await asyncio.gather(*(ask() for _ in range(11)))
    # Ten intervals at least; how much longer it takes is the machine's.
    assert time.monotonic() - began >= 0.1


async def test_a_request_that_is_cancelled_takes_no_turn(
    storage: StorageDouble, authority: Authority
) -> None:
    """Turns of 100 requests that were given up would be 100 s."""
    async with asking(storage, authority, rate=1) as ask:
        await ask()
        given_up = [asyncio.create_task(ask()) for _ in range(100)]
        await asyncio.sleep(0)
        for task in given_up:
            task.cancel()
        await asyncio.wait(given_up)
        async with asyncio.timeout(20):
            assert await ask() == (200, b"content")


async def test_limits_are_shared_by_the_processes_of_a_service(
    storage: StorageDouble, authority: Authority
) -> None:
    element = StorageElement(
        name="A", url=f"{storage.url}/data", ca_file=str(authority.file), connections=5, rate=10
    )
    async with Elements([element], session, issuer="", processes=2) as elements:
        (found,) = elements.all
        assert found._session.connector is not None
        assert (found._session.connector.limit, found._interval) == (2, 0.2)


async def test_who_was_away_comes_last(storage: StorageDouble, authority: Authority) -> None:
    known = [
        StorageElement(name=name, url=f"{storage.url}/{name}", ca_file=str(authority.file)) for name in "AB"
    ]
    async with Elements(known, session, issuer="", others=["http://web.example/d"]) as elements:
        urls = [f"{storage.url}/A/f", f"{storage.url}/B/f", "http://web.example/d/f"]
        assert [element.name for element, _ in elements.reachable(urls)] == ["A", "B", None]
        elements.of(urls[0]).note(away=True)
        assert [url for _, url in elements.reachable(urls)] == [urls[1], urls[2], urls[0]]
        elements.of(urls[0]).note(away=False)
        assert [url for _, url in elements.reachable(urls)] == urls
        with pytest.raises(SourceRefused, match="not below a source URL"):
            elements.of(f"{storage.url}/C/f")


@pytest.mark.parametrize("order", [("outer", "inner"), ("inner", "outer")])
async def test_of_two_of_which_one_is_below_the_other_the_nearest_is_asked(order: tuple[str, str]) -> None:
    urls = {"outer": "https://rse.example/data", "inner": "https://rse.example/data/tape"}
    known = [StorageElement(name=name, url=urls[name]) for name in order]
    others = ["https://rse.example/data/tape/old"]
    async with Elements(known, session, issuer="", others=others) as elements:
        for url, name in {
            "https://rse.example/data/f": "outer",
            "https://rse.example/data/tapes/f": "outer",
            "https://rse.example/data/tape/f": "inner",
            "https://rse.example/data/%74ape/f": "inner",
            "https://rse.example/data/tape/old/f": "inner",
        }.items():
            assert elements.of(url).name == name, url


def test_what_cannot_be_is_refused_by_name() -> None:
    good = {"name": "A", "url": "https://rse.example/data"}
    for change, words in (
        ({"name": "a,b"}, "should match pattern"),
        ({"url": "https://*.example/data"}, "is not a base URL"),
        ({"url": "ftp://rse.example"}, "is not an http or https URL"),
        ({"redirects": ["https://*.com/"]}, "followed by a domain"),
        ({"credential": "token_file"}, "A: credential_file is missing for token_file"),
        ({"credential": "client_credentials", "credential_file": "/s"}, "A: client_id is missing"),
        (
            {"credential": "token_file", "credential_file": "/t", "url": "http://rse.example"},
            "A: url must be https for a credential",
        ),
        ({"user": "x"}, "Extra inputs are not permitted"),
        (
            {"issuer": "http://issuer.example/"},
            "http://issuer.example/ must be https, since secrets are sent",
        ),
        ({"issuer": "https://issuer.example/?realm=x"}, "https://issuer.example/ is not a base URL"),
        ({"issuer": "https://u:p@issuer.example/"}, "must not carry credentials"),
    ):
        with pytest.raises(ValidationError, match=words):
            StorageElement.model_validate(good | change)
    element = StorageElement.model_validate(good)
    check = TypeAdapter(StorageElements).validate_python
    with pytest.raises(ValueError, match="more than one storage element has the name A"):
        check([element, element])
    for other in (
        "https://RSE.example:443/data/",
        "https://rse.example./d%61ta",
        "https://rse.example//data",
    ):
        twin = StorageElement.model_validate({"name": "B", "url": other})
        with pytest.raises(ValueError, match="A and B have the same url"):
            check([element, twin])
    check([element, StorageElement.model_validate({"name": "B", "url": "https://rse.example/Data"})])


def test_secrets_are_sent_by_https_or_within_this_machine() -> None:
    for good in ("https://a.example/x/", "http://127.0.0.1:5000", "http://[::1]/", "http://localhost:80/x"):
        assert confidential_base(good) == good.rstrip("/")
    for bad in (
        "http://a.example",
        "http://127.0.0.1.example",
        "http://10.0.0.1",
        "ftp://localhost",
        "x",
        "",
    ):
        with pytest.raises(ValueError, match=r"http"):
            confidential_base(bad)


def test_a_base_may_stand_for_many_servers() -> None:
    policy = SourcePolicy(["https://*.pools.example.org:*/dcache", "https://door.example.org:*"])
    for good in (
        "https://p1.pools.example.org:24001/dcache/x?ticket=1",
        "https://a.b.pools.example.org/dcache/x",
        "https://door.example.org:2880/any",
    ):
        policy.check(good)
    for bad in (
        "https://pools.example.org/dcache/x",
        "https://evilpools.example.org/dcache/x",
        "http://p1.pools.example.org:24001/dcache/x",
        "https://p1.pools.example.org/other",
        "https://p1.pools.example.org.evil.example/dcache/x",
        "https://x.door.example.org/any",
    ):
        with pytest.raises(SourceRefused):
            policy.check(bad)


def test_a_file_that_was_replaced_is_told_from_the_former(tmp_path: Path) -> None:
    """One of the same size, within the clock's step, is another all the same."""
    file = tmp_path / "token"
    file.write_text("first")
    os.utime(file, ns=(1, 1))
    watched = Watched(str(file))
    assert watched.text() == "first"
    new = tmp_path / "new"
    new.write_text("other")
    os.utime(new, ns=(1, 1))
    new.replace(file)
    assert watched.text() == "other"
