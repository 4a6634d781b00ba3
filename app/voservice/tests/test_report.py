"""What a service says of an issuer and a token to whoever connects an issuer of their own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import jwt
import pytest
from voservice.auth.report import report
from voservice.config import ServiceSettings

from .test_tokens import AUDIENCE, EC384, OTHER, RSA, URL, FakeIssuer, published


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
