"""What a service says of an issuer and a token to whoever connects an issuer of their own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import jwt
import pytest
from voservice.auth import EXCHANGE
from voservice.auth.report import report
from voservice.config import ServiceSettings

from .test_tokens import AUDIENCE, EC384, OTHER, RSA, URL, FakeIssuer, published, token


@pytest.fixture
def fake() -> FakeIssuer:
    return FakeIssuer()


@pytest.fixture
def settings() -> ServiceSettings:
    return ServiceSettings(oidc_issuer=URL, oidc_audiences=[AUDIENCE])


@pytest.fixture
def ask(fake: FakeIssuer, settings: ServiceSettings) -> Callable[..., Any]:
    async def ask(key: Any = None, **claims: Any) -> dict[str, Any]:
        token = ""
        if key is not None:
            now = int(time.time())
            said = {"iss": URL, "sub": "s-1", "aud": AUDIENCE, "iat": now, "exp": now + 600} | claims
            token = jwt.encode(said, key, algorithm="RS256", headers={"kid": "rsa"})
        async with httpx.AsyncClient(transport=fake) as client:
            told = await report(settings, client, token)
        assert not token or token not in str(told)
        return told

    return ask


async def test_a_good_token_of_a_good_issuer(ask: Callable[..., Any]) -> None:
    told = await ask(RSA, **{"wlcg.groups": ["/survey"]})
    assert told["issuer"]["ok"]
    assert told["issuer"]["keys"] == {"RS256": ["rsa"], "ES256": ["ec"]}
    token = told["token"]
    assert (token["accepted"], token["username"], token["groups"]) == (True, "ada", ["survey"])
    assert 590 <= token["seconds_left"] <= 600
    assert token["header"] == {"alg": "RS256", "kid": "rsa", "typ": "JWT"}
    assert token["claims"] == {"iss": URL, "aud": AUDIENCE, "sub": "s-1", "wlcg.groups": ["/survey"]}


async def test_without_a_token_the_issuer_alone(ask: Callable[..., Any]) -> None:
    assert "token" not in await ask()


async def test_a_refused_token_says_why_and_what_it_says_itself(ask: Callable[..., Any]) -> None:
    told = (await ask(RSA, aud="https://elsewhere.example"))["token"]
    assert not told["accepted"]
    assert told["problem"] == "The token is meant for another audience"
    assert told["claims"]["aud"] == "https://elsewhere.example"
    assert (await ask(OTHER))["token"]["problem"] == "The token's signature or claims are not valid"


async def test_what_is_no_token(fake: FakeIssuer, settings: ServiceSettings) -> None:
    async with httpx.AsyncClient(transport=fake) as client:
        told = await report(settings, client, "no.token")
    assert told["token"] == {
        "accepted": False,
        "header": {},
        "claims": {},
        "problem": "The token is not a JSON web token",
    }


async def test_an_issuer_that_spells_itself_otherwise(ask: Callable[..., Any], fake: FakeIssuer) -> None:
    fake.metadata["issuer"] = f"{URL}/"
    told = (await ask())["issuer"]
    assert not told["ok"]
    assert told["problem"] == f"it identifies itself as '{URL}/'; the setting must be spelled the same"


async def test_an_issuer_that_is_away(ask: Callable[..., Any], fake: FakeIssuer) -> None:
    fake.failure = httpx.ConnectError("nobody there")
    assert (await ask())["issuer"]["problem"] == "nobody there"


async def test_an_issuer_whose_keys_are_for_nothing_that_is_accepted(
    ask: Callable[..., Any], fake: FakeIssuer
) -> None:
    fake.keys = [published(EC384, "p384")]
    told = (await ask())["issuer"]
    assert told["problem"] == "none of its keys is for an algorithm that is accepted"


class Exchanging(ServiceSettings):
    """Settings of a service that exchanges users' tokens."""

    @property
    def exchanged_lifetime(self) -> int:
        return 604_800


async def test_what_a_service_gets_itself(fake: FakeIssuer, settings: ServiceSettings) -> None:
    """From an issuer that gives a client a token without a name, and for a user's one that lasts."""
    fake.metadata["token_endpoint"] = f"{URL}/token"
    client = {"id": "core"}
    settings = Exchanging(
        **settings.model_dump() | {"service_client_id": "core", "service_client_secret": "s"}
    )

    async def ask() -> dict[str, Any]:
        async with httpx.AsyncClient(transport=fake) as http:
            return await report(settings, http, token())

    refused = await ask()
    problem = "The issuer refused client_credentials: 400 unauthorized_client"
    assert refused["client"] == client | {"problem": problem}
    assert refused["exchanged"] == {"problem": f"The issuer refused {EXCHANGE}: 400 unauthorized_client"}

    own = token(sub="core", client_id="core", preferred_username=None)
    lasting = token(exp=int(time.time()) + 86_400)
    fake.granted = {
        "client_credentials": {"access_token": own},
        EXCHANGE: {"access_token": lasting},
    }
    told = await ask()
    assert told["client"]["username"] == "core"
    assert told["exchanged"]["username"] == "ada"
    assert told["exchanged"]["seconds_left"] > 86_000
    assert own not in str(told)
    assert lasting not in str(told)

    fake.granted[EXCHANGE] = {"access_token": token(aud="https://elsewhere.example")}
    assert (await ask())["exchanged"] == {"problem": "The token is meant for another audience"}
    fake.failure = httpx.ConnectError("nobody there")
    assert "client" not in await ask()


async def test_nothing_of_an_issuer_or_a_token_moves_the_terminal(
    ask: Callable[..., Any], fake: FakeIssuer
) -> None:
    """Nor does it write a line of its own."""
    fake.keys.append(published(RSA, "x\ncore  accepts it\x1b[2J"))
    fake.metadata["token_endpoint"] = f"{URL}/token\u2028\x9b1A"
    told = await ask(RSA, **{"wlcg.groups": ["a\r\nb"]})
    assert told["issuer"]["keys"]["RS256"] == ["rsa", "x?core  accepts it?[2J"]
    assert told["issuer"]["token_endpoint"] == f"{URL}/token??1A"
    assert told["token"]["groups"] == ["a??b"]
