"""The POSIX mapper through its HTTP interface, over a real database."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import posix_mapper
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from lxml import etree
from posix_mapper.app import create_app
from posix_mapper.config import PosixMapperSettings
from posix_mapper.services.levels import TRACKED
from posix_mapper.storage.mapping import MappingStore
from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from voservice import auth, database
from voservice.config import load
from voservice.testing_docs import shown_api

pytest_plugins = ["voservice.testing"]

ISSUER = "https://vo.example/iam"
BASE = "https://vo.example/src/posix-mapper"
TEAM = "ivo://opencadc.org/gms?team"
OWN_GROUP = "ivo://default-group-should-be-ignored.opencadc.org/default-group?"
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
    monkeypatch.setenv("POSIX_MAPPER_OPERATORS", "op,operators")
    monkeypatch.setenv("POSIX_MAPPER_REGISTRARS", "vospace")
    await asyncio.to_thread(database.migrate, PosixMapperSettings(), MIGRATIONS)
    make = httpx.AsyncClient
    monkeypatch.setattr(httpx, "AsyncClient", lambda **options: make(**{"transport": issuer, **options}))
    app = create_app()
    async with app.router.lifespan_context(app), make(transport=httpx.ASGITransport(app=app)) as client:
        client.headers["Authorization"] = f"Bearer {issuer.token('ada', client_id='vospace')}"
        yield client


async def tsv(http: httpx.AsyncClient, path: str) -> str:
    answer = await http.get(f"{BASE}/{path}", headers={"Accept": "text/tab-separated-values"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "text/tab-separated-values"
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
    assert await tsv(http, f"gid?group={TEAM}") == f"{TEAM}\t900000\n"
    assert (await http.get(f"{BASE}/gid", params={"gid": 900000})).text == "team:x:900000:\n"
    refused = await http.get(f"{BASE}/gid", params={"group": "team"})
    assert refused.status_code == 400
    assert refused.text.startswith("group: 'team'")


async def test_a_user_brings_no_name_but_the_own_into_the_mapping(
    http: httpx.AsyncClient, issuer: Issuer, database_url: str
) -> None:
    """What is unknown is left out, as unknown numbers are: nobody fills the tables by asking."""
    await tsv(http, f"gid?group={TEAM}")
    before = await run(database_url, "SELECT groupuri FROM mapping.groups ORDER BY gid")
    for claims in ({}, {"client_id": "cli"}, {"azp": "cli"}, {"client_id": "cli", "azp": "vospace"}):
        as_user = {"Authorization": f"Bearer {issuer.token('ada', groups=['cavernadmin'], **claims)}"}
        for path, known in (
            (f"gid?group={TEAM}&group=ivo://opencadc.org/gms?other", "team:x:900000:\n"),
            ("gid?group=ivo://opencadc.org/gms?other", ""),
            (f"gid?group={OWN_GROUP}eve", ""),
            ("uid?user=eve&user=any&user=vospace", ""),
        ):
            answer = await http.get(f"{BASE}/{path}", headers=as_user)
            assert (answer.status_code, answer.text) == (200, known)
    assert await run(database_url, "SELECT groupuri FROM mapping.groups ORDER BY gid") == before
    assert await run(database_url, "SELECT username FROM mapping.users") == [("cavernadmin",)]
    answer = await http.get(f"{BASE}/uid?user=ada&user=eve", headers=as_user)
    assert answer.text == "ada:x:10000:10000:::\n"


async def test_the_administrator_and_the_services_register_names(
    http: httpx.AsyncClient, issuer: Issuer
) -> None:
    for number, claims in enumerate(({"user": "cavernadmin"}, {"user": "x", "azp": "vospace"})):
        headers = {"Authorization": f"Bearer {issuer.token(**claims)}"}
        answer = await http.get(f"{BASE}/gid?group={TEAM}{number}", headers=headers)
        assert answer.text == f"team{number}:x:{900_000 + number}:\n"
        answer = await http.get(f"{BASE}/uid?user=u{number}", headers=headers)
        assert answer.text == f"u{number}:x:{10_000 + number}:{10_000 + number}:::\n"


async def test_everybody_registers_names_where_opencadc_s_cavern_asks(
    http: httpx.AsyncClient, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks with the tokens of its callers."""
    monkeypatch.setenv("POSIX_MAPPER_REGISTRARS", "any")
    app = create_app()
    headers = {"Authorization": f"Bearer {issuer.token('ada')}"}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), headers=headers) as client,
    ):
        assert (await client.get(f"{BASE}/gid?group={TEAM}")).text == "team:x:900000:\n"


async def test_cavern_may_be_known_by_its_client_alone(
    http: httpx.AsyncClient, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """INDIGO IAM gives clients that act as themselves no user name."""
    monkeypatch.setenv("POSIX_MAPPER_REGISTRARS", "2a1b8f7e-5d62")
    made = issuer.token("2a1b8f7e-5d62", client_id="2a1b8f7e-5d62", preferred_username="")
    app = create_app()
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), headers={"Authorization": f"Bearer {made}"}
        ) as client,
    ):
        assert (await client.get(f"{BASE}/uid?user=ada")).text.startswith("ada:x:")


async def test_many_groups_at_once(http: httpx.AsyncClient) -> None:
    """From two askers, in opposite orders, some of them known: each gets one number."""
    groups = [f"group={TEAM}{number}" for number in range(1200)]
    await tsv(http, "gid?" + "&".join(groups[::7]))
    answers = await asyncio.gather(
        *(tsv(http, "gid?" + "&".join(order)) for order in [groups, groups[::-1]] * 2)
    )
    assert len(set(answers)) == 1
    numbers = [int(line.split("\t")[1]) for line in answers[0].splitlines()]
    assert len(numbers) == len(set(numbers)) == 1200


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
    capabilities = etree.fromstring((await http.get(f"{BASE}/capabilities")).content)
    for kind, path in (("user", "uid"), ("group", "gid")):
        standard = f"http://www.opencadc.org/std/posix#{kind}-mapping-0.1"
        interface = capabilities.find(f"capability[@standardID='{standard}']/interface")
        assert interface is not None
        assert interface.findtext("accessURL[@use='base']") == f"{BASE}/{path}"
        methods = [method.get("standardID") for method in interface.iterfind("securityMethod")]
        assert methods == [None, "ivo://ivoa.net/sso#token"]


# As OpenCADC's service makes it, with the account that it gave.
OPENCADC = """
CREATE SCHEMA mapping;
CREATE TABLE mapping.Users (uid integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    username varchar(255) UNIQUE NOT NULL);
CREATE TABLE mapping.Groups (gid integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    groupURI varchar(255) UNIQUE NOT NULL);
CREATE SEQUENCE mapping.users_uid_seq1 START 20000;
CREATE SEQUENCE mapping.groups_gid_seq1 START 800000;
CREATE TABLE mapping.ModelVersion (model varchar(32) PRIMARY KEY,
    version varchar(32) NOT NULL, lastModified timestamp NOT NULL);
INSERT INTO mapping.ModelVersion VALUES ('posix-mapping', '0.1', '2026-01-01');
INSERT INTO mapping.Users (uid, username) OVERRIDING SYSTEM VALUE VALUES (nextval('mapping.users_uid_seq1'), 'pdowler');
INSERT INTO mapping.Groups (gid, groupURI) OVERRIDING SYSTEM VALUE
    VALUES (20000, 'ivo://default-group-should-be-ignored.opencadc.org/default-group?pdowler')
"""


async def run(database_url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements of SQL; returns the rows of the last one."""
    engine = create_async_engine(database_url.replace("postgresql:", "postgresql+asyncpg:"))
    rows: list[tuple[Any, ...]] = []
    async with engine.begin() as connection:
        for statement in statements:
            result = await connection.execute(text(statement))
            rows = [tuple(row) for row in result] if result.returns_rows else []
    await engine.dispose()
    return rows


@pytest.fixture
async def opencadc(database_url: str) -> None:
    await run(database_url, *OPENCADC.split(";\n"))


async def test_a_database_of_opencadc_s_service_is_taken_over(
    opencadc: None, http: httpx.AsyncClient
) -> None:
    assert await tsv(http, "uid?user=pdowler") == "pdowler\t20000\t20000\n"
    assert await tsv(http, "uid?user=ada") == "ada\t20001\t20001\n"
    assert await tsv(http, f"gid?group={TEAM}") == f"{TEAM}\t800000\n"


async def test_what_opencadc_s_service_reads_is_there(http: httpx.AsyncClient, database_url: str) -> None:
    await tsv(http, "uid?user=ada")
    await asyncio.to_thread(database.migrate, PosixMapperSettings(), MIGRATIONS)
    assert await tsv(http, "uid?user=ada") == "ada\t10000\t10000\n"
    assert await run(database_url, "SELECT model, version FROM mapping.modelversion") == [
        ("posix-mapping", "0.1")
    ]
    own = "ivo://default-group-should-be-ignored.opencadc.org/default-group?ada"
    assert (10000, own) in await run(database_url, "SELECT gid, groupuri FROM mapping.groups")
    # Its service draws from the same sequences.
    assert await run(database_url, "SELECT nextval('mapping.users_uid_seq1')") == [(10001,)]


async def test_new_names_in_opposite_orders_do_not_lock_each_other_out(http: httpx.AsyncClient) -> None:
    names = [f"user=n{i}" for i in range(20)]
    answers = await asyncio.gather(
        *(tsv(http, "uid?" + "&".join(order)) for order in [names, names[::-1]] * 5)
    )
    assert len(set(answers)) == 1
    assert answers[0].count("\n") == 20


async def test_two_processes_agree(http: httpx.AsyncClient) -> None:
    """Two engines with pools of their own, as two server processes have."""
    other = create_app()
    async with (
        other.router.lifespan_context(other),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=other), headers=http.headers) as second,
    ):
        for round_ in range(10):
            one, two = await asyncio.gather(
                *(tsv(client, f"gid?group={TEAM}{round_}") for client in (http, second))
            )
            assert one == two != ""


async def test_numbers_that_are_taken_are_passed_over(http: httpx.AsyncClient, database_url: str) -> None:
    await run(
        database_url,
        "INSERT INTO mapping.users (uid, username) OVERRIDING SYSTEM VALUE VALUES (10000, 'reserved')",
        "INSERT INTO mapping.groups (gid, groupuri) OVERRIDING SYSTEM VALUE VALUES (10001, 'ivo://x.org/g?c')",
        "INSERT INTO mapping.groups (gid, groupuri) OVERRIDING SYSTEM VALUE VALUES (900000, 'ivo://x.org/g?a')",
    )
    assert await tsv(http, "uid?user=ada") == "ada\t10002\t10002\n"
    assert await tsv(http, "gid?group=ivo://x.org/g?b") == "ivo://x.org/g?b\t900001\n"


async def test_a_user_s_own_group_comes_with_the_user_alone(http: httpx.AsyncClient) -> None:
    own = f"{OWN_GROUP}eve"
    refused = await http.get(f"{BASE}/gid", params={"group": own})
    assert refused.status_code == 400
    assert "made with the user" in refused.text
    await tsv(http, "uid?user=eve")
    assert await tsv(http, f"gid?group={own}") == f"{own}\t10000\n"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("INSERT INTO mapping.users VALUES (6, 'eve')", "eve has uid 6"),
        ("INSERT INTO mapping.groups VALUES (6, 'ivo://x.org/g?a')", "a group has gid 6"),
    ],
)
async def test_a_reservation_that_comes_too_late_is_refused(
    http: httpx.AsyncClient, database_url: str, rows: str, message: str
) -> None:
    await run(database_url, rows.replace(" VALUES", " OVERRIDING SYSTEM VALUE VALUES"))
    engine = create_async_engine(database_url.replace("postgresql:", "postgresql+asyncpg:"))
    with pytest.raises(ValueError, match=message):
        await MappingStore(engine).reserve("ops", 6)
    await engine.dispose()
    assert "ops\t6" not in await tsv(http, "uid")


async def test_opencadc_s_service_can_give_numbers_in_these_tables(
    http: httpx.AsyncClient, database_url: str
) -> None:
    """It draws the number itself and inserts it, and a user's own group with the same."""
    await run(
        database_url,
        "INSERT INTO mapping.users (uid, username) VALUES (nextval('mapping.users_uid_seq1'), 'eve')",
        "INSERT INTO mapping.groups (gid, groupuri) VALUES (10000, 'ivo://x.org/g?eve')",
    )
    assert await tsv(http, "uid?user=eve") == "eve\t10000\t10000\n"


async def test_a_number_once_given_stays(
    http: httpx.AsyncClient, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert await tsv(http, "uid?user=ops") == "ops\t10000\t10000\n"
    engine = create_async_engine(database_url.replace("postgresql:", "postgresql+asyncpg:"))
    await MappingStore(engine).reserve("ops", 6)
    await engine.dispose()
    assert "ops keeps uid 10000 and does not get 6" in caplog.text
    assert await tsv(http, "uid?user=ops&uid=6") == "ops\t10000\t10000\n"


async def test_without_its_database_the_service_says_so(http: httpx.AsyncClient, database_url: str) -> None:
    await run(database_url, "ALTER SCHEMA mapping RENAME TO elsewhere")
    assert "<vosi:available>false<" in (await http.get(f"{BASE}/availability")).text
    assert (await http.get(f"{BASE}/availability?detail=min")).status_code == 503


async def test_a_server_that_is_gone_is_503(
    http: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://nobody@/nothing?host={tmp_path}")
    monkeypatch.delenv("POSIX_MAPPER_RESERVED_USERS")
    transport = httpx.ASGITransport(app=create_app())
    async with httpx.AsyncClient(transport=transport, headers=http.headers) as client:
        answer = await client.get(f"{BASE}/uid?user=ada")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
        assert (await client.get(f"{BASE}/availability?detail=min")).status_code == 503


@pytest.mark.parametrize("path", ["uid", "gid"])
async def test_other_methods_are_refused(http: httpx.AsyncClient, path: str) -> None:
    refused = await http.post(f"{BASE}/{path}")
    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET")


ADMIN = "cavernadmin"


async def levels(http: httpx.AsyncClient, headers: dict[str, str]) -> dict[str, str]:
    answer = await http.get(f"{BASE}/logControl", headers=headers)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/plain")
    return dict(line.split() for line in answer.text.splitlines())


@pytest.fixture
def admin(issuer: Issuer) -> Iterator[dict[str, str]]:
    kept = {name: logging.getLogger(name).level for name in (*TRACKED, "posix_mapper.storage")}
    yield {"Authorization": f"Bearer {issuer.token(ADMIN)}"}
    for name, level in kept.items():
        logging.getLogger(name).setLevel(level)


async def test_levels_of_logs(http: httpx.AsyncClient, admin: dict[str, str]) -> None:
    answer = await http.post(
        f"{BASE}/logControl", data={"LEVEL": "debug", "package": "posix_mapper.storage"}, headers=admin
    )
    assert (answer.status_code, answer.headers["Location"]) == (303, f"{BASE}/logControl")
    assert logging.getLogger("posix_mapper.storage").level == logging.DEBUG
    assert (await levels(http, admin))["posix_mapper.storage"] == "DEBUG"
    await http.post(f"{BASE}/logControl?level=WARN", headers=admin)
    found = await levels(http, admin)
    assert found == dict.fromkeys(["posix_mapper", "voservice", "posix_mapper.storage"], "WARN")


async def test_who_sets_levels(http: httpx.AsyncClient, issuer: Issuer, admin: dict[str, str]) -> None:
    """The administrator, and who is configured by name or by group; nobody else."""
    somebody = http.headers.pop("Authorization")
    for headers in ({}, {"Authorization": somebody}):
        for method in ("GET", "POST"):
            answer = await http.request(method, f"{BASE}/logControl?level=WARN", headers=headers)
            assert (answer.status_code, answer.text) == (403, "permission denied\n")
    assert "WARN" not in (await levels(http, admin)).values()
    for token in (issuer.token("op"), issuer.token("eve", groups=["operators"])):
        await levels(http, {"Authorization": f"Bearer {token}"})
    refused = await http.get(f"{BASE}/logControl", headers={"Authorization": "Bearer nonsense"})
    assert refused.status_code == 401


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"level": "loud"}, "unrecognised value for level: loud"),
        ({"package": "x"}, "level is missing"),
        ({"level": "INFO", "package": "a\nb"}, "package must be the name of a logger"),
        (b"level=%ff", "level"),
    ],
)
async def test_bad_levels(
    http: httpx.AsyncClient, admin: dict[str, str], form: dict[str, str] | bytes, message: str
) -> None:
    before = await levels(http, admin)
    given: dict[str, Any] = {"content": form} if isinstance(form, bytes) else {"data": form}
    answer = await http.post(f"{BASE}/logControl", headers=admin, **given)
    assert (answer.status_code, message in answer.text) == (400, True)
    assert await levels(http, admin) == before


async def test_methods_and_headers(http: httpx.AsyncClient) -> None:
    refused = await http.delete(f"{BASE}/logControl")
    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, POST")
    assert refused.text == "unsupported: HTTP DELETE\n"
    refused = await http.post(f"{BASE}/availability")
    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD")
    del http.headers["Authorization"]
    anonymous = await http.get(f"{BASE}/capabilities")
    assert (anonymous.status_code, anonymous.headers["WWW-Authenticate"]) == (200, "Bearer")
    assert "X-VO-Authenticated" not in anonymous.headers
    assert (await http.get(f"{BASE}/availability?DETAIL=min")).content == b""


@pytest.mark.parametrize("reserved", [{"a": 1, "b": 1}, {"a": 0}, {"a b": 1}])
def test_reserved_users_are_checked_as_a_dictionary_too(reserved: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match="posix_mapper_reserved_users"):
        PosixMapperSettings(posix_mapper_reserved_users=reserved)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("RESERVED_USERS", "cavernadmin", "not name:uid"),
        ("RESERVED_USERS", "a:0", "with a uid from 1"),
        ("RESERVED_USERS", "a:b", "valid integer"),
        ("RESERVED_USERS", "a b:1", "not a user's name"),
        ("RESERVED_USERS", "a:1,b:1", "twice"),
        ("RESERVED_USERS", "a:1,a:2", "twice"),
        ("CONTEXT_PATH", "src/posix-mapper", "begins with a slash"),
        ("UID_START", "12", "greater than or equal to 1000"),
    ],
)
def test_wrong_settings_are_named(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    value: str,
    message: str,
) -> None:
    monkeypatch.setenv(f"POSIX_MAPPER_{variable}", value)
    with pytest.raises(SystemExit):
        load(PosixMapperSettings)
    told = capsys.readouterr().err
    assert told.startswith(f"posix_mapper_{variable.lower()}")
    assert message in told


def test_usernames_that_cannot_own_files_are_refused() -> None:
    for name in ["", ".hidden", "a/b", "a..b", "a\n", "x" * 65, "-dash"]:
        assert not auth.USERNAME.fullmatch(name)


async def test_entries_and_the_database_are_told_to_prometheus(http: httpx.AsyncClient) -> None:
    before = (await http.get("https://vo.example/metrics")).text.splitlines()
    await http.get(f"{BASE}/uid", params={"user": "grace"})
    after = (await http.get("https://vo.example/metrics")).text.splitlines()

    def users(lines: list[str]) -> float:
        return float(
            next(line for line in lines if line.startswith('posix_mapper_entries{kind="user"}')).split()[1]
        )

    assert users(after) == users(before) + 1
    assert any(line.startswith("database_size_bytes{") for line in after)
    assert not any("grace" in line for line in after)


async def test_the_api_is_shown_without_other_sites(http: httpx.AsyncClient) -> None:
    del http.headers["Authorization"]
    shown = await shown_api(http, httpx.URL(f"{BASE}/docs"))
    assert "/src/posix-mapper/uid" in shown["paths"]
