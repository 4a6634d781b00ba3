"""Signing in at the issuer: the authorization endpoint, its page, and what codes and refresh tokens are good for."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
from iam.services.attempts import Attempts
from iam.services.authorizations import Kept
from voservice.auth import AuthenticationError, TokenVerifier

ISSUER = "https://vo.example/iam"
PAGE = "https://vo.example/prepare-data/ui/signed-in"
CLIENT = ("page", "page-secret")
VERIFIER = "v" * 64
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
ASKED = {
    "response_type": "code",
    "client_id": "page",
    "redirect_uri": PAGE,
    "scope": "openid profile groups more",
    "state": "the state",
    "nonce": "the nonce",
    "code_challenge": CHALLENGE,
    "code_challenge_method": "S256",
}


async def sign_in_code(http: httpx.AsyncClient, user: str = "ada") -> str:
    form = {"username": user, "password": "letmein"}
    answer = await http.post(f"{ISSUER}/sign-in-codes", data=form, auth=("cli", "cli-secret"))
    assert answer.status_code == 200, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    code: str = answer.json()["code"]
    return code


async def authorize(http: httpx.AsyncClient, code: str, **changes: str) -> httpx.Response:
    return await http.post(f"{ISSUER}/authorize", data=ASKED | changes | {"sign_in_code": code})


def told(answer: httpx.Response) -> dict[str, str]:
    """What the client is told by the URL to which its user comes back."""
    assert answer.status_code == 303, answer.text
    return {name: values[0] for name, values in parse_qs(urlsplit(answer.headers["Location"]).query).items()}


async def code(http: httpx.AsyncClient, **changes: str) -> str:
    return told(await authorize(http, await sign_in_code(http), **changes))["code"]


async def redeem(http: httpx.AsyncClient, code: str, **changes: Any) -> httpx.Response:
    auth = changes.pop("auth", CLIENT)
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": PAGE, "code_verifier": VERIFIER}
    return await http.post(f"{ISSUER}/token", data=form | changes, auth=auth)


async def refresh(http: httpx.AsyncClient, token: str, auth: tuple[str, str] = CLIENT) -> httpx.Response:
    form = {"grant_type": "refresh_token", "refresh_token": token}
    return await http.post(f"{ISSUER}/token", data=form, auth=auth)


async def test_a_user_signs_in_with_a_code_that_serves_once(http: httpx.AsyncClient) -> None:
    metadata = (await http.get(f"{ISSUER}/.well-known/openid-configuration")).json()
    shown = await http.get(metadata["authorization_endpoint"], params=ASKED)
    assert shown.status_code == 200
    assert 'action="https://vo.example/iam/authorize"' in shown.text
    once = await sign_in_code(http)
    assert re.fullmatch("([0-9A-HJKMNP-TV-Z]{4}-){3}[0-9A-HJKMNP-TV-Z]{4}", once)
    back = await authorize(http, f" {once.lower().replace('-', ' ').replace('0', 'o').replace('1', 'l')} ")
    assert back.headers["Location"].startswith(f"{PAGE}?")
    answer = told(back)
    assert (answer["state"], answer["iss"]) == ("the state", ISSUER)

    tokens = (await redeem(http, answer["code"])).json()
    verifier = TokenVerifier(ISSUER, ["https://vo.example"], client=http)
    identity = await verifier.verify(tokens["access_token"])
    assert (identity.username, identity.groups) == ("ada", {"staff", "astro"})
    assert tokens["scope"] == "openid profile groups"
    identified = jwt.decode(tokens["id_token"], options={"verify_signature": False})
    assert (identified["aud"], identified["nonce"], identified["sub"]) == (
        "page",
        "the nonce",
        identity.subject,
    )

    assert (await authorize(http, once)).status_code == 403
    assert (await redeem(http, answer["code"])).json()["error"] == "invalid_grant"
    # A code that comes twice is in wrong hands, so that what it gave is over too.
    assert (await refresh(http, tokens["refresh_token"])).json()["error"] == "invalid_grant"


async def test_an_id_token_opens_nothing(http: httpx.AsyncClient) -> None:
    token = (await redeem(http, await code(http))).json()["id_token"]
    with pytest.raises(AuthenticationError):
        await TokenVerifier(ISSUER, ["page"], client=http).verify(token)
    assert (
        await http.get(f"{ISSUER}/userinfo", headers={"Authorization": f"Bearer {token}"})
    ).status_code == 401
    active = await http.post(f"{ISSUER}/introspect", data={"token": token}, auth=CLIENT)
    assert active.json() == {"active": False}


async def test_refresh_tokens_serve_once_and_one_client(http: httpx.AsyncClient) -> None:
    first = (await redeem(http, await code(http))).json()["refresh_token"]
    second = (await refresh(http, first)).json()["refresh_token"]
    third = (await refresh(http, second)).json()
    assert "id_token" not in third
    assert (await refresh(http, first)).status_code == 400
    assert (await refresh(http, third["refresh_token"])).status_code == 400

    stolen = (await redeem(http, await code(http))).json()["refresh_token"]
    assert (await refresh(http, stolen, ("other", "other-secret"))).json()["error"] == "unauthorized_client"
    ended = (await redeem(http, await code(http))).json()["refresh_token"]
    for secret in ("other-secret", "wrong"):
        await http.post(f"{ISSUER}/revoke", data={"token": ended}, auth=("other", secret))
    ended = (await refresh(http, ended)).json()["refresh_token"]
    assert (await http.post(f"{ISSUER}/revoke", data={"token": ended}, auth=CLIENT)).status_code == 200
    assert (await refresh(http, ended)).json()["error"] == "invalid_grant"


@pytest.mark.parametrize(
    "wrong",
    [
        {"code_verifier": "w" * 64},
        {"code_verifier": ""},
        {"redirect_uri": "https://other.example/back?from=vo"},
        {"auth": ("other", "other-secret")},
    ],
)
async def test_a_stolen_code_is_worth_nothing(http: httpx.AsyncClient, wrong: Any) -> None:
    stolen = await code(http)
    assert (await redeem(http, stolen, **wrong)).json()["error"] == "invalid_grant"
    assert (await redeem(http, stolen)).json()["error"] == "invalid_grant"


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": "nobody"},
        {"client_id": "cli"},
        {"redirect_uri": "https://evil.example/"},
        {"redirect_uri": f"{PAGE}/"},
        {"redirect_uri": f"{PAGE}?x=y"},
        {"redirect_uri": ""},
        {"state": "s" * 3000},
    ],
)
async def test_nobody_is_sent_where_the_client_is_not(
    http: httpx.AsyncClient, changes: dict[str, str]
) -> None:
    for answer in (
        await http.get(f"{ISSUER}/authorize", params=ASKED | changes),
        await authorize(http, await sign_in_code(http), **changes),
    ):
        assert answer.status_code == 400
        assert "Location" not in answer.headers
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]


async def test_a_parameter_that_comes_twice_is_refused(http: httpx.AsyncClient) -> None:
    pairs = [*ASKED.items(), ("redirect_uri", "https://evil.example/")]
    assert (await http.get(f"{ISSUER}/authorize", params=pairs)).status_code == 400


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_mode": "fragment"}, "invalid_request"),
        ({"code_challenge": ""}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"scope": "profile"}, "invalid_scope"),
        ({"prompt": "none"}, "login_required"),
    ],
)
async def test_the_client_is_told_what_is_wrong(
    http: httpx.AsyncClient, changes: dict[str, str], error: str
) -> None:
    answer = told(await http.get(f"{ISSUER}/authorize", params=ASKED | changes))
    assert (answer["error"], answer["state"], answer["iss"]) == (error, "the state", ISSUER)
    back = await http.get(
        f"{ISSUER}/authorize", params=ASKED | changes | {"redirect_uri": "https://other.example/back?from=vo"}
    )
    assert back.headers["Location"].startswith("https://other.example/back?from=vo&error=")


async def test_what_a_client_sends_is_text_on_the_page(http: httpx.AsyncClient) -> None:
    nasty = '"><script>alert(1)</script>'
    shown = await http.get(f"{ISSUER}/authorize", params=ASKED | {"state": nasty})
    assert "<script" not in shown.text
    assert html.escape(nasty).replace("&#x27;", "&#39;") in shown.text.replace("&#34;", "&quot;")
    policy = shown.headers["Content-Security-Policy"]
    assert "script-src https://vo.example/iam/assets/" in policy
    assert "unsafe" not in policy
    assert shown.headers["Cache-Control"] == "no-store"
    style = re.search('href="([^"]+[.]css)"', shown.text)
    assert style is not None
    assert (await http.get(style[1])).headers["Content-Type"].startswith("text/css")


async def test_a_page_of_another_site_signs_nobody_in(http: httpx.AsyncClient) -> None:
    once = await sign_in_code(http)
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        answer = await http.post(f"{ISSUER}/authorize", data=ASKED | {"sign_in_code": once}, headers=headers)
        assert answer.status_code == 403
    assert "code" in told(await authorize(http, once))


async def test_codes_are_not_guessed(http: httpx.AsyncClient) -> None:
    for _ in range(20):
        assert (await authorize(http, "0000-0000-0000-0000")).status_code == 403
    refused = await authorize(http, await sign_in_code(http))
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) <= 60


@pytest.mark.parametrize(
    ("client", "form", "error"),
    [
        (("cli", "wrong"), {"username": "ada", "password": "letmein"}, "invalid_client"),
        (CLIENT, {"username": "ada", "password": "letmein"}, "unauthorized_client"),
        (("cli", "cli-secret"), {"username": "ada", "password": "guess"}, "invalid_grant"),
        (("cli", "cli-secret"), {"username": "../ada", "password": "letmein"}, "invalid_request"),
    ],
)
async def test_sign_in_codes_are_the_operators(
    http: httpx.AsyncClient, client: tuple[str, str], form: dict[str, str], error: str
) -> None:
    answer = await http.post(f"{ISSUER}/sign-in-codes", data=form, auth=client)
    assert answer.json()["error"] == error


def test_wrong_attempts_count_by_address(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    attempts = Attempts(2)
    for address in ("2001:db8::1", "2001:db8::2", "192.0.2.1"):
        attempts.note(address)
    assert attempts.wait("2001:db8::3") == 61
    assert attempts.wait("192.0.2.1") == 0
    now = 1061.0
    assert attempts.wait("2001:db8::3") == 0


def test_what_is_kept_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    kept: Kept[int] = Kept(most=2)
    for number in range(3):
        kept.add(str(number), number, 10)
    assert [kept.find(str(number)) for number in range(3)] == [None, 1, 2]
    assert (kept.take("1"), kept.take("1")) == (1, None)
    now = 1010.0
    assert kept.find("2") is None
