"""The issuer through its HTTP interface, and its tokens through the verifier that all services use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from iam.app import create_app
from voservice.auth import AuthenticationError, ClientCredentials, TokenVerifier
from voservice.testing_api import answers_as_described
from voservice.testing_docs import shown_api

ISSUER = "https://vo.example/iam"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
CLI = ("cli", "cli-secret")
SERVICE = ("prepare-data", "service-secret")


async def grant(http: httpx.AsyncClient, client: tuple[str, str] = CLI, **form: str) -> httpx.Response:
    return await http.post(f"{ISSUER}/token", data=form, auth=client)


async def password(http: httpx.AsyncClient, user: str = "ada", **form: str) -> str:
    answer = await grant(http, grant_type="password", username=user, password="letmein", **form)
    assert answer.status_code == 200, answer.text
    token: str = answer.json()["access_token"]
    return token


async def test_tokens_pass_the_verifier(http: httpx.AsyncClient) -> None:
    verifier = TokenVerifier(ISSUER, ["https://vo.example"], client=http)
    identity = await verifier.verify(await password(http))
    assert identity.username == "ada"
    assert identity.groups == {"staff", "astro"}
    again = await verifier.verify(await password(http))
    assert identity.subject == again.subject


async def test_a_service_has_tokens_of_its_own_and_exchanges_those_of_users(http: httpx.AsyncClient) -> None:
    verifier = TokenVerifier(ISSUER, ["https://vo.example"], client=http)
    own = ClientCredentials(ISSUER, *SERVICE, client=http)
    assert (await verifier.verify(await own.token())).username == "admin"
    assert await own.token() == await own.token()
    short = await password(http, expires_in="60")
    long = await verifier.verify(await own.exchange(short, 86_400))
    before = (await verifier.verify(short)).expires
    assert long.username == "ada"
    assert long.expires is not None
    assert before is not None
    assert (long.expires - before).total_seconds() > 86_000


@pytest.mark.parametrize(
    ("client", "form", "status", "error"),
    [
        (("cli", "wrong"), {"grant_type": "password"}, 401, "invalid_client"),
        (("nobody", "x"), {"grant_type": "password"}, 401, "invalid_client"),
        (CLI, {"grant_type": "password", "username": "ada", "password": "guess"}, 400, "invalid_grant"),
        (
            CLI,
            {"grant_type": "password", "username": "../ada", "password": "letmein"},
            400,
            "invalid_request",
        ),
        (CLI, {"grant_type": "client_credentials"}, 400, "unauthorized_client"),
        (CLI, {"grant_type": "magic"}, 400, "unsupported_grant_type"),
        (CLI, {}, 400, "unsupported_grant_type"),
        (
            SERVICE,
            {"grant_type": EXCHANGE, "subject_token": "forged", "subject_token_type": ACCESS_TOKEN},
            400,
            "invalid_grant",
        ),
        (SERVICE, {"grant_type": EXCHANGE, "subject_token": "x"}, 400, "invalid_request"),
        (
            SERVICE,
            {"grant_type": EXCHANGE, "subject_token_type": ACCESS_TOKEN, "requested_token_type": "saml"},
            400,
            "invalid_request",
        ),
        (
            SERVICE,
            {"grant_type": EXCHANGE, "subject_token_type": ACCESS_TOKEN, "actor_token": "x"},
            400,
            "invalid_request",
        ),
        (CLI, {"grant_type": EXCHANGE, "subject_token_type": ACCESS_TOKEN}, 400, "unauthorized_client"),
        (CLI, {"grant_type": "password", "client_secret": "cli-secret"}, 400, "invalid_request"),
        (
            CLI,
            {"grant_type": "password", "username": "ada", "password": "letmein", "expires_in": "604801"},
            400,
            "invalid_request",
        ),
        (
            CLI,
            {"grant_type": "password", "username": "ada", "password": "letmein", "expires_in": "0"},
            400,
            "invalid_request",
        ),
    ],
)
async def test_bad_requests(
    http: httpx.AsyncClient, client: tuple[str, str], form: dict[str, str], status: int, error: str
) -> None:
    answer = await grant(http, client, **form)
    assert answer.status_code == status
    assert answer.json()["error"] == error
    assert answer.json()["error_description"]


async def test_userinfo_and_introspection(http: httpx.AsyncClient) -> None:
    token = await password(http)
    info = await http.get(f"{ISSUER}/userinfo", headers={"Authorization": f"Bearer {token}"})
    assert info.json()["preferred_username"] == "ada"
    active = await http.post(f"{ISSUER}/introspect", data={"token": token}, auth=SERVICE)
    assert active.json()["active"] is True
    inactive = await http.post(f"{ISSUER}/introspect", data={"token": "x"}, auth=SERVICE)
    assert inactive.json() == {"active": False}
    refused = await http.get(f"{ISSUER}/userinfo", headers={"Authorization": "Bearer x"})
    assert refused.status_code == 401
    assert 'error="invalid_token"' in refused.headers["WWW-Authenticate"]


async def test_groups(http: httpx.AsyncClient) -> None:
    headers = {"Authorization": f"Bearer {await password(http)}"}
    assert (await http.get(f"{ISSUER}/gms/search", headers=headers)).text == "astro\nstaff\n"
    some = await http.get(f"{ISSUER}/gms/search?group=staff&group=other", headers=headers)
    assert some.text == "staff\n"
    assert (await http.get(f"{ISSUER}/gms/search")).status_code == 401
    assert b"GMS#search-1.0" in (await http.get(f"{ISSUER}/gms/capabilities")).content


async def test_a_token_tells_groups_only_if_asked_to(http: httpx.AsyncClient) -> None:
    verifier = TokenVerifier(ISSUER, ["https://vo.example"], client=http)
    silent = await password(http, scope="openid profile")
    assert "groups" not in (await verifier.verify(silent)).claims
    headers = {"Authorization": f"Bearer {silent}"}
    assert (await http.get(f"{ISSUER}/gms/search", headers=headers)).text == "astro\nstaff\n"
    assert (await http.get(f"{ISSUER}/userinfo", headers=headers)).json().keys() == {
        "sub",
        "preferred_username",
    }
    # An exchange gives no more than the token had.
    own = ClientCredentials(ISSUER, *SERVICE, client=http)
    assert "groups" not in (await verifier.verify(await own.exchange(silent, 600))).claims


async def test_who_may_know_the_groups_of_others(http: httpx.AsyncClient) -> None:
    own = ClientCredentials(ISSUER, *SERVICE, client=http)
    url = f"{ISSUER}/gms/search?user=ada"
    answer = await http.get(url, headers={"Authorization": f"Bearer {await own.token()}"})
    assert answer.text == "astro\nstaff\n"
    for user in ("ada", "bob"):
        answer = await http.get(url, headers={"Authorization": f"Bearer {await password(http, user)}"})
        assert answer.status_code == 403


@pytest.mark.parametrize(
    ("issuer", "audiences", "message"),
    [
        ("https://other.example/iam", ["https://vo.example"], "is unavailable or gives invalid metadata"),
        (ISSUER, ["https://elsewhere.example"], "another audience"),
    ],
)
async def test_tokens_for_others_are_refused(
    http: httpx.AsyncClient, issuer: str, audiences: list[str], message: str
) -> None:
    verifier = TokenVerifier(issuer, audiences, client=http)
    with pytest.raises(AuthenticationError, match=message):
        await verifier.verify(await password(http))


async def test_a_forged_token_is_refused(http: httpx.AsyncClient) -> None:
    header, payload, signature = (await password(http)).split(".")
    verifier = TokenVerifier(ISSUER, ["https://vo.example"], client=http)
    other = (await password(http, "eve")).split(".")[1]
    with pytest.raises(AuthenticationError, match="signature"):
        await verifier.verify(f"{header}.{other}.{signature}")
    with pytest.raises(AuthenticationError, match="algorithm"):
        await verifier.verify(f"eyJhbGciOiJub25lIn0.{payload}.")


async def test_only_tokens_for_this_deployment_are_exchanged(http: httpx.AsyncClient) -> None:
    elsewhere = await password(http, audience="https://elsewhere.example")
    form = {"grant_type": EXCHANGE, "subject_token_type": ACCESS_TOKEN, "subject_token": elsewhere}
    answer = await grant(http, SERVICE, **form)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    form["subject_token"] = await password(http, audience="https://vo.example")
    answer = await grant(http, SERVICE, **form)
    assert answer.json()["issued_token_type"] == ACCESS_TOKEN
    assert answer.headers["Cache-Control"] == "no-store"


async def test_client_credentials_in_the_form_or_encoded_in_the_header(http: httpx.AsyncClient) -> None:
    form = {"grant_type": "client_credentials", "client_id": SERVICE[0], "client_secret": SERVICE[1]}
    assert (await http.post(f"{ISSUER}/token", data=form)).status_code == 200
    encoded = await grant(http, ("prepare%2Ddata", "service%2Dsecret"), grant_type="client_credentials")
    assert encoded.status_code == 200
    none = await http.post(f"{ISSUER}/token", data={"grant_type": "client_credentials"})
    assert (none.status_code, none.json()["error"]) == (401, "invalid_client")
    assert none.headers["WWW-Authenticate"] == 'Basic realm="iam"'
    broken = await http.post(
        f"{ISSUER}/token", data={"grant_type": "password"}, headers={"Authorization": b"Basic \xc3\xbc"}
    )
    assert broken.status_code == 401


async def test_a_request_without_a_token_is_told_the_scheme_alone(http: httpx.AsyncClient) -> None:
    answer = await http.get(f"{ISSUER}/userinfo")
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize(
    "issuer", [ISSUER, f"{ISSUER}/", "https://vo.example", "https://vo.example/a/b/iam/"]
)
async def test_the_issuer_s_path_and_slash(
    configured: Path, monkeypatch: pytest.MonkeyPatch, issuer: str
) -> None:
    monkeypatch.setenv("OIDC_ISSUER", issuer)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=create_app())) as client:
        own = ClientCredentials(issuer, *SERVICE, client=client)
        identity = await TokenVerifier(issuer, ["https://vo.example"], client=client).verify(
            await own.token()
        )
    assert (identity.username, identity.issuer) == ("admin", issuer)


def client(**changes: Any) -> dict[str, Any]:
    return {"client_id": "x", "secret_file": "SECRET", "grants": ["password"], **changes}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"clients": [client(secret_file="/nowhere/secret")]}, "clients.0: .*cannot read /nowhere/secret"),
        ({"clients": [client(secret_file="EMPTY")]}, "clients.0: .*is empty"),
        ({"clients": [client(grants=["magic"])]}, "clients.0.grants.0: "),
        ({"clients": [client(username="../root")]}, "clients.0.username: .*letters, digits"),
        ({"clients": [client(client_id="")]}, "clients.0.client_id: "),
        ({"clients": [client(grant="password")]}, "clients.0.grant: "),
        ({"clients": [client(), client()]}, "more than one has the client_id x"),
        ({"clients": [], "users": {"ada": {"group": []}}}, "users.ada.group: "),
        ({}, "clients: "),
        (None, "cannot read"),
    ],
)
def test_wrong_clients_are_named(configured: Path, content: Any, message: str) -> None:
    (configured.parent / "empty").write_text("\n")
    text = json.dumps(content).replace("SECRET", str(configured.parent / "cli"))
    configured.write_text(text.replace("EMPTY", str(configured.parent / "empty")))
    if content is None:
        configured.unlink()
    with pytest.raises(SystemExit, match=rf"(?s)iam_clients_file: .*{message}"):
        create_app()


@pytest.mark.parametrize("wrong", ["", "not a key", "EC", "short"])
@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_wrong_signing_keys_are_named(configured: Path, wrong: str) -> None:
    made: Any = {
        "EC": ec.generate_private_key(ec.SECP256R1()),
        "short": rsa.generate_private_key(public_exponent=65537, key_size=1024),  # noqa: S505 - to be refused
    }.get(wrong)
    pem = wrong
    if made is not None:
        pem = made.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
    (configured.parent / "secrets/iam_signing_key").write_text(pem)
    with pytest.raises(SystemExit, match="iam_signing_key"):
        create_app()


def test_an_empty_password_lets_nobody_in(
    configured: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IAM_USER_PASSWORD", "")
    with pytest.raises(SystemExit):
        create_app()
    assert "iam_user_password: " in capsys.readouterr().err


async def test_the_api_is_shown_without_other_sites(http: httpx.AsyncClient) -> None:
    shown = await shown_api(http, httpx.URL(f"{ISSUER}/docs"))
    assert "/iam/token" in shown["paths"]


async def test_the_api_is_as_its_document_describes_it(http: httpx.AsyncClient) -> None:
    headers = {"Authorization": f"Bearer {await password(http)}"}
    await answers_as_described(create_app(), "/iam/openapi.json", headers)


async def test_tokens_and_refusals_are_told_to_prometheus(http: httpx.AsyncClient) -> None:
    def counted(text: str) -> tuple[float, float]:
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        issued = values.get('iam_tokens_issued_total{grant="password"}', 0)
        return float(issued), float(values.get('iam_refusals_total{error="invalid_grant"}', 0))

    before = counted((await http.get("/metrics")).text)
    for password in ("letmein", "wrong"):
        form = {"grant_type": "password", "username": "ada", "password": password}
        await http.post("/iam/token", data=form, auth=("cli", "cli-secret"))
    text = (await http.get("/metrics")).text
    assert counted(text) == (before[0] + 1, before[1] + 1)
    assert "ada" not in text
