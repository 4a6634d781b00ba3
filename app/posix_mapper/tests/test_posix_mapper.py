"""The POSIX mapper through its HTTP interface, over a real database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import posix_mapper
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from posix_mapper.config import PosixMapperSettings
from posix_mapper.main import create_app
from voservice import auth, database

pytest_plugins = ["voservice.testing"]

ISSUER = "https://vo.example/iam"
BASE = "https://vo.example/src/posix-mapper"
MIGRATIONS = Path(posix_mapper.__file__).parent / "migrations"


class Issuer(httpx.AsyncBaseTransport):
    """Answers for the issuer, so that tokens are verified as they are in a deployment."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        jwk = jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        self.documents: dict[str, Any] = {
            "/iam/.well-known/openid-configuration": {"issuer": ISSUER, "jwks_uri": f"{ISSUER}/jwks"},
            "/iam/jwks": {"keys": [{**jwk, "kid": "k", "use": "sig"}]},
        }

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=self.documents[request.url.path])

    def token(self, user: str, **claims: Any) -> str:
        body = {
            "iss": ISSUER,
            "sub": user,
            "aud": "https://vo.example",
            "exp": int(time.time()) + 300,
            "preferred_username": user,
            **claims,
        }
        return jwt.encode(body, self.key, "RS256", headers={"kid": "k"})


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
async def http(
    database_url: str, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("OIDC_ISSUER", ISSUER)
    monkeypatch.setenv("OIDC_AUDIENCES", "https://vo.example")
    monkeypatch.setenv("PUBLIC_URL", "https://vo.example")
    monkeypatch.setenv("POSIX_MAPPER_RESERVED_USERS", "cavernadmin:9999")
    await asyncio.to_thread(database.migrate, PosixMapperSettings(), MIGRATIONS)
    make = httpx.AsyncClient
    monkeypatch.setattr(httpx, "AsyncClient", lambda **options: make(transport=issuer, **options))
    app = create_app()
    async with app.router.lifespan_context(app), make(transport=httpx.ASGITransport(app=app)) as client:
        client.headers["Authorization"] = f"Bearer {issuer.token('ada')}"
        yield client


async def tsv(http: httpx.AsyncClient, path: str) -> str:
    answer = await http.get(f"{BASE}/{path}", headers={"Accept": "text/tab-separated-values"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith("text/tab-separated-values")
    assert answer.headers["X-VO-Authenticated"] == "ada"
    return answer.text


async def test_users_are_made_on_first_sight_and_keep_their_number(http: httpx.AsyncClient) -> None:
    assert await tsv(http, "uid?user=ada") == "ada\t10000\t10000\n"
    assert await tsv(http, "uid?user=ada&user=eve") == "ada\t10000\t10000\neve\t10001\t10001\n"
    assert await tsv(http, "uid?uid=10001&uid=4") == "eve\t10001\t10001\n"
    assert await tsv(http, "uid?uid=4") == ""
    assert (await http.get(f"{BASE}/uid?USER=ada")).text == "ada:x:10000:10000:::\n"
    assert await tsv(http, "uid") == "cavernadmin\t9999\t9999\nada\t10000\t10000\neve\t10001\t10001\n"


async def test_groups(http: httpx.AsyncClient) -> None:
    team = "ivo://opencadc.org/gms?team"
    assert await tsv(http, f"gid?group={team}") == f"{team}\t900000\n"
    assert (await http.get(f"{BASE}/gid", params={"gid": 900000})).text == "team:x:900000:\n"
    refused = await http.get(f"{BASE}/gid", params={"group": "team"})
    assert refused.status_code == 400
    assert refused.text.startswith("group: 'team'")


async def test_numbers_are_stable_under_concurrency(http: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(tsv(http, f"uid?user=u{i % 10}") for i in range(100)))
    by_name: dict[str, set[str]] = {}
    for answer in answers:
        name, uid, _ = answer.split("\t")
        by_name.setdefault(name, set()).add(uid)
    assert all(len(numbers) == 1 for numbers in by_name.values())
    assert len(set().union(*by_name.values())) == 10


async def test_authentication(http: httpx.AsyncClient, issuer: Issuer) -> None:
    del http.headers["Authorization"]
    anonymous = await http.get(f"{BASE}/uid")
    assert (anonymous.status_code, anonymous.text) == (401, "Caller is not authenticated.")
    assert anonymous.headers["WWW-Authenticate"] == "Bearer"
    for claims, message in [
        ({"exp": 1}, "expired"),
        ({"aud": "other"}, "audience"),
        ({"iss": "https://evil.example"}, "not from"),
        ({"preferred_username": "../root"}, "names no user"),
    ]:
        refused = await http.get(
            f"{BASE}/uid", headers={"Authorization": f"Bearer {issuer.token('ada', **claims)}"}
        )
        assert refused.status_code == 401
        assert message in refused.text
        assert 'error="invalid_token"' in refused.headers["WWW-Authenticate"]


@pytest.mark.parametrize("path", ["users/pdowler", "uid/", "", "../uid"])
async def test_other_paths_are_not_found(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.get(f"{BASE}/{path}")).status_code == 404


@pytest.mark.parametrize(
    "query", ["uid?uid=x", "uid?uid=-1", "uid?user=a/b", "uid?user=", "gid?gid=99999999999"]
)
async def test_bad_parameters_are_named(http: httpx.AsyncClient, query: str) -> None:
    answer = await http.get(f"{BASE}/{query}")
    assert answer.status_code == 400
    assert answer.text.startswith(("uid:", "user:", "gid:"))


async def test_vosi(http: httpx.AsyncClient) -> None:
    assert "<vosi:available>true<" in (await http.get(f"{BASE}/availability")).text
    assert (await http.get(f"{BASE}/availability?detail=min")).status_code == 200
    capabilities = (await http.get(f"{BASE}/capabilities")).text
    assert f'<accessURL use="full">{BASE}/uid</accessURL>' in capabilities


async def test_a_database_of_the_other_flavour_is_taken_over(http: httpx.AsyncClient) -> None:
    await tsv(http, "uid?user=ada")
    await asyncio.to_thread(database.migrate, PosixMapperSettings(), MIGRATIONS)
    assert await tsv(http, "uid?user=ada") == "ada\t10000\t10000\n"


def test_usernames_that_cannot_own_files_are_refused() -> None:
    for name in ["", ".hidden", "a/b", "a..b", "a\n", "x" * 65, "-dash"]:
        assert not auth.USERNAME.fullmatch(name)
