"""Tokens of the service itself."""

from __future__ import annotations

import asyncio
import sys
from base64 import b64decode
from contextlib import suppress
from importlib.abc import MetaPathFinder
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from voservice.auth import AuthenticationError, ClientCredentials, IssuerUnavailable
from voservice.auth import client as client_module
from voservice.auth import issuer as issuer_module

URL = "https://issuer.example"
KEY = {
    "kty": "OKP", "crv": "Ed25519", "kid": "k", "use": "sig", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
}  # fmt: skip


class FakeIssuer(httpx.AsyncBaseTransport):
    """Gives a new token each time, unless a test wants something else."""

    def __init__(self) -> None:
        self.metadata = {"issuer": URL, "jwks_uri": f"{URL}/jwks", "token_endpoint": f"{URL}/token"}
        self.given = 0
        self.lifetime: Any = 100
        self.answer: httpx.Response | Exception | None = None
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        if request.url.path != "/token":
            return httpx.Response(200, json={"keys": [KEY]} if request.url.path == "/jwks" else self.metadata)
        self.requests.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer:
            return self.answer
        self.given += 1
        return httpx.Response(200, json={"access_token": f"token-{self.given}", "expires_in": self.lifetime})


@pytest.fixture
def fake() -> FakeIssuer:
    return FakeIssuer()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time by the monotonic clock, in a list of one."""
    time = [1000.0]
    for module in (client_module, issuer_module):
        monkeypatch.setattr(module, "monotonic", lambda: time[0])
    return time


@pytest.fixture
def credentials(fake: FakeIssuer, now: list[float]) -> ClientCredentials:
    return ClientCredentials(URL, "the client", "p:w/d+ %", client=httpx.AsyncClient(transport=fake))


async def test_one_token_serves_until_it_is_near_its_end(
    credentials: ClientCredentials, fake: FakeIssuer, now: list[float]
) -> None:
    assert set(await asyncio.gather(*(credentials.token() for _ in range(10)))) == {"token-1"}
    now[0] += 79
    assert await credentials.token() == "token-1"
    now[0] += 2
    assert await credentials.token() == "token-2"


async def test_the_client_is_told_as_the_standard_has_it(
    credentials: ClientCredentials, fake: FakeIssuer
) -> None:
    await credentials.token()
    sent = fake.requests[0]
    assert b64decode(sent.headers["Authorization"].removeprefix("Basic ")) == b"the+client:p%3Aw%2Fd%2B+%25"
    assert parse_qs(sent.content.decode()) == {"grant_type": ["client_credentials"]}


async def test_an_issuer_that_is_away_is_forgiven_while_the_token_lasts(
    credentials: ClientCredentials, fake: FakeIssuer, now: list[float]
) -> None:
    await credentials.token()
    fake.answer = httpx.ConnectError("down")
    now[0] += 90
    assert await credentials.token() == "token-1"
    now[0] += 10
    with pytest.raises(IssuerUnavailable):
        await credentials.token()
    fake.answer = None
    assert await credentials.token() == "token-2"


@pytest.mark.parametrize("answer", [httpx.Response(503), httpx.Response(429), httpx.ReadTimeout("slow")])
async def test_what_passes(credentials: ClientCredentials, fake: FakeIssuer, answer: Any) -> None:
    fake.answer = answer
    with pytest.raises(IssuerUnavailable):
        await credentials.token()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (httpx.Response(401, json={"error": "invalid_client"}), "401 invalid_client"),
        (httpx.Response(400, text="<html>"), "400 without a token"),
        (httpx.Response(200, text="<html>"), "200 without a token"),
        (httpx.Response(200, json={}), "200 without a token"),
        (httpx.Response(200, json=["token"]), "200 without a token"),
        (httpx.Response(302, json={"access_token": "x"}), "302 without a token"),
    ],
)
async def test_a_refusal_tells_the_reason_and_no_secret(
    credentials: ClientCredentials, fake: FakeIssuer, answer: httpx.Response, reason: str
) -> None:
    fake.answer = answer
    with pytest.raises(AuthenticationError) as caught:
        await credentials.exchange("the-token-of-ada", 60)
    assert not isinstance(caught.value, IssuerUnavailable)
    assert reason in caught.value.description
    assert "the-token-of-ada" not in str(caught.value)
    assert "p:w" not in str(caught.value)


async def test_exchange(credentials: ClientCredentials, fake: FakeIssuer) -> None:
    assert await credentials.exchange("abc", 86_400) == "token-1"
    assert parse_qs(fake.requests[0].content.decode()) == {
        "grant_type": ["urn:ietf:params:oauth:grant-type:token-exchange"],
        "subject_token": ["abc"],
        "subject_token_type": ["urn:ietf:params:oauth:token-type:access_token"],
        "expires_in": ["86400"],
    }


@pytest.mark.parametrize("lifetime", [None, "soon", "NaN", "inf", "-inf", -1, 10**400, [300]])
async def test_a_token_without_a_lifetime_is_renewed_soon(
    credentials: ClientCredentials, fake: FakeIssuer, now: list[float], lifetime: Any
) -> None:
    fake.lifetime = lifetime
    await credentials.token()
    now[0] += 301
    assert await credentials.token() == "token-2"


async def test_an_issuer_without_a_token_endpoint(credentials: ClientCredentials, fake: FakeIssuer) -> None:
    del fake.metadata["token_endpoint"]
    with pytest.raises(AuthenticationError, match="no token endpoint"):
        await credentials.token()


class Searches(MetaPathFinder):
    """Notes the modules that are looked for on the disk, and finds none."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        self.names.append(fullname)


async def test_a_request_looks_for_no_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is looked for each time, through all directories that modules may be in."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    searches = Searches()
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server, httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        await client.get(url)  # imports what it needs
        monkeypatch.setattr(sys, "meta_path", [searches, *sys.meta_path])
        await client.get(url)
        await client.aclose()
        async with httpx.AsyncClient() as another:
            await another.get(url)
    assert searches.names == []
