"""The page: signing in and what could go wrong with it, and tasks as users see them."""

from __future__ import annotations

import asyncio
import html
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import httpx
import jwt
import pytest
from page_site import PAGE, SAME, URL, Site, signing_key, site
from preparer.app import create_app
from preparer.ledger.tables import FileState
from preparer.ui.access import ATTEMPT, SESSION, Page
from preparer.ui.sealing import Seal
from preparer.ui.sessions import Tokens, sessions
from preparer.ui.sign_in import own_place
from sqlalchemy import select, text
from voservice.testing import database_url, postgres

__all__ = ["database_url", "postgres"]

DIDS = "testing:one.txt\n# a comment\n\ntesting:two.txt\n"


@pytest.fixture(scope="module")
def key() -> str:
    return signing_key()


@pytest.fixture
async def running(
    tmp_path: Path, database_url: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Site]:
    async with site(tmp_path, database_url, key, monkeypatch) as found:
        yield found


@pytest.fixture
async def browser(running: Site) -> AsyncIterator[httpx.AsyncClient]:
    async with running.browser() as client:
        yield client


@pytest.fixture
async def ada(running: Site, browser: httpx.AsyncClient) -> httpx.AsyncClient:
    """A browser in which ada is signed in."""
    assert (await running.sign_in(browser)).status_code == 303
    return browser


async def stage(browser: httpx.AsyncClient, dids: str = DIDS, **fields: str) -> httpx.Response:
    form = {"dids": dids, "destination": "testing", "rse": "", "lifetime": "", "do": "stage"} | fields
    return await browser.post("/prepare-data/ui/new", data=form, headers=SAME)


async def test_a_user_signs_in_and_out(running: Site, browser: httpx.AsyncClient) -> None:
    welcome = await browser.get("/prepare-data/ui/")
    assert welcome.status_code == 200
    assert "/prepare-data/ui/sign-in?next=%2Ftasks" in welcome.text
    leaving = await browser.get("/prepare-data/ui/sign-in?next=/new?to=x")
    asked = dict(parse_qsl(urlsplit(leaving.headers["Location"]).query))
    assert leaving.headers["Location"].startswith(f"{running.issuer}authorize?")
    assert asked["redirect_uri"] == f"{PAGE}/signed-in"
    assert (asked["code_challenge_method"], asked["response_type"]) == ("S256", "code")
    back = await browser.get(await running.at_issuer(leaving.headers["Location"]))
    assert (back.status_code, back.headers["Location"]) == (303, "/prepare-data/ui/new?to=x")
    session = next(line for line in back.headers.get_list("set-cookie") if line.startswith(f"{SESSION}="))
    assert {"HttpOnly", "Secure", "SameSite=lax", "Path=/"} <= set(session.split("; "))
    assert "Domain" not in session
    assert ATTEMPT not in browser.cookies

    shown = await browser.get("/prepare-data/ui/tasks")
    assert "Nothing has been staged yet" in shown.text
    assert shown.headers["Cache-Control"] == "no-store"
    assert (await browser.get("/prepare-data/ui/")).headers["Location"] == "/prepare-data/ui/tasks"

    secret = browser.cookies[SESSION]
    out = await browser.post("/prepare-data/ui/sign-out", headers=SAME)
    assert (out.status_code, out.headers["Location"]) == (303, "/prepare-data/ui/")
    assert SESSION not in browser.cookies
    browser.cookies.set(SESSION, secret)
    after = await browser.get("/prepare-data/ui/tasks")
    assert after.headers["Location"] == "/prepare-data/ui/?next=%2Ftasks"


async def test_tokens_are_neither_in_the_browser_nor_plain_in_the_database(
    running: Site, ada: httpx.AsyncClient
) -> None:
    async with running.app.state.context.ledger.engine.connect() as connection:
        (row,) = (await connection.execute(select(sessions))).all()
    assert ada.cookies[SESSION].encode() not in row.id + row.sealed
    tokens = Seal(running.app.state.settings, "session").open(row.sealed)
    assert tokens is not None
    claims = jwt.decode(tokens["access"], options={"verify_signature": False})
    assert claims["preferred_username"] == "ada"
    assert Seal(running.app.state.settings, "sign-in").open(row.sealed) is None
    for path in ("tasks", "new"):
        shown = await ada.get(f"/prepare-data/ui/{path}")
        assert tokens["access"] not in shown.text
        assert tokens["refresh"] not in shown.text


async def test_a_sign_in_makes_a_new_session_and_ends_the_former(
    running: Site, browser: httpx.AsyncClient
) -> None:
    browser.cookies.set(SESSION, "planted")
    await running.sign_in(browser)
    first = browser.cookies.get(SESSION, domain="core.example") or browser.cookies[SESSION]
    assert first != "planted"
    async with running.browser() as other:
        other.cookies.set(SESSION, first)
        await running.sign_in(other)
        assert {cookie.value for cookie in other.cookies.jar} != {first}
    async with running.browser(cookies={SESSION: first}) as former:
        assert (await former.get("/prepare-data/ui/tasks")).status_code == 303


async def test_an_answer_is_good_in_the_browser_that_asked(running: Site, browser: httpx.AsyncClient) -> None:
    """Nobody is signed in as somebody else by a link (login CSRF), nor twice by the same one."""
    leaving = await browser.get("/prepare-data/ui/sign-in")
    back = await running.at_issuer(leaving.headers["Location"])
    async with running.browser() as victim:
        refused = await victim.get(back)
        assert refused.status_code == 403
        assert "another browser" in refused.text
        assert SESSION not in victim.cookies
        await victim.get("/prepare-data/ui/sign-in")
        refused = await victim.get(back)
        assert "another sign-in" in refused.text
    kept = browser.cookies[ATTEMPT]
    assert (await browser.get(back)).status_code == 303
    browser.cookies.set(ATTEMPT, kept)
    assert "invalid_grant" in (await browser.get(back)).text


WRONG_ANSWERS: list[tuple[dict[str, str | None], str]] = [
    ({"state": "x"}, "another sign-in"),
    ({"state": None}, "another sign-in"),
    ({"iss": "https://evil.example/"}, "not from the issuer"),
    ({"iss": None}, "not from the issuer"),
    ({"code": None}, "has no code"),
    ({"code": "guess"}, "invalid_grant"),
    ({"error": "access_denied", "error_description": "<b>no</b>"}, "&lt;b&gt;no&lt;/b&gt;"),
]


async def test_a_wrong_answer_signs_nobody_in(running: Site, browser: httpx.AsyncClient) -> None:
    for change, words in WRONG_ANSWERS:
        leaving = await browser.get("/prepare-data/ui/sign-in")
        back = urlsplit(await running.at_issuer(leaving.headers["Location"]))
        query = dict(parse_qsl(back.query)) | change
        told = urlencode({name: value for name, value in query.items() if value is not None})
        refused = await browser.get(f"/prepare-data/ui/signed-in?{told}")
        assert refused.status_code == 403, change
        assert words in refused.text
        assert SESSION not in browser.cookies
    twice = await browser.get(f"/prepare-data/ui/signed-in?{back.query}&state=x")
    assert "a parameter twice" in twice.text


FORGED: list[tuple[dict[str, object], str]] = [
    ({"aud": "another"}, "ID token is not valid"),
    ({"aud": ["page", "another"]}, "another client"),
    ({"azp": "another"}, "another client"),
    ({"iss": "https://evil.example/"}, "ID token is not valid"),
    ({"exp": 1}, "ID token is not valid"),
    ({"nonce": None}, "ID token is not valid"),
    ({"nonce": "another"}, "belongs to another sign-in"),
    ({"sub": "another"}, "of different users"),
]


async def test_id_tokens_are_verified(
    running: Site, browser: httpx.AsyncClient, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = running.app.state.page.sign_in._client
    granted = client.grant
    for claims, words in FORGED:

        async def forged(form: dict[str, str], claims: dict[str, object] = claims) -> dict[str, object]:
            answer: dict[str, object] = await granted(form)
            token = str(answer["id_token"])
            said = jwt.decode(token, options={"verify_signature": False}) | claims
            said = {name: value for name, value in said.items() if value is not None}
            header = {"kid": jwt.get_unverified_header(token)["kid"]}
            return answer | {"id_token": jwt.encode(said, key, "RS256", headers=header)}

        monkeypatch.setattr(client, "grant", forged)
        refused = await running.sign_in(browser)
        assert refused.status_code == 403, claims
        assert words in refused.text
        assert SESSION not in browser.cookies


@pytest.mark.parametrize(
    "place",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example",
        "\\\\evil.example",
        "/%5Cevil.example",
        "/../../src/cavern/files/home/eve/page.html",
        "/%2e%2e/%2e%2e/iam",
        "javascript:alert(1)",
        "/tasks\r\nSet-Cookie: x=y",
        "tasks",
        "/" + "a" * 3000,
        "http://[::1",
        "/é",
    ],
)
def test_a_sign_in_leads_to_the_page_alone(place: str) -> None:
    assert own_place(place) == "/"


def test_places_of_the_page_are_kept() -> None:
    for place in (
        "/tasks",
        "/new?to=a%20b",
        "/space/home/ada/a%20b",
        "/tasks?show=failed&before=2026-01-01T00:00:00Z",
    ):
        assert own_place(place) == place


OTHER_PAGES: list[dict[str, str]] = [
    {},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site", "Origin": URL},
    {"Sec-Fetch-Site": "same-site", "Origin": URL},
    {"Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "https://evil.example"},
]


async def test_another_page_changes_nothing(ada: httpx.AsyncClient) -> None:
    task = (await stage(ada)).headers["Location"]
    for headers in OTHER_PAGES:
        for path in ("/prepare-data/ui/new", f"{task}/cancel", "/prepare-data/ui/sign-out"):
            refused = await ada.post(path, data={"dids": "testing:x"}, headers=headers)
            assert refused.status_code == 403, (path, headers)
    assert "Waiting" in (await ada.get(task)).text


async def test_the_session_is_of_the_page_and_not_of_the_api(ada: httpx.AsyncClient) -> None:
    for path in ("v1/tasks", "00000000-0000-0000-0000-000000000000"):
        assert (await ada.get(f"/prepare-data/{path}")).status_code == 401


async def test_tokens_are_renewed_once_for_all_who_wait(running: Site, ada: httpx.AsyncClient) -> None:
    page: Page = running.app.state.page
    own = page.sessions
    secret = ada.cookies[SESSION]
    before = await own.find(secret)
    assert before is not None
    asked = []

    async def obtain(tokens: Tokens) -> Tokens | None:
        asked.append(tokens)
        return await page.sign_in.refresh(tokens)

    async def renew() -> Tokens | None:
        return await own.renew(secret, before, obtain)

    first = await renew()
    assert first == await renew()
    assert len(asked) == 1
    assert first is not None
    assert first.access != before.access
    assert (await ada.get("/prepare-data/ui/tasks")).status_code == 200


async def test_an_issuer_that_is_slow_to_renew_leaves_the_rest_of_the_database_to_others(
    running: Site, ada: httpx.AsyncClient
) -> None:
    page: Page = running.app.state.page
    begun, answers = asyncio.Event(), asyncio.Event()
    tokens = Tokens("access", 0, "refresh")

    async def obtain(_: Tokens) -> None:
        begun.set()
        await answers.wait()

    secrets = [await page.sessions.begin(f"user{number}", tokens, None) for number in range(40)]
    renewals = [asyncio.create_task(page.sessions.renew(secret, tokens, obtain)) for secret in secrets]
    try:
        await begun.wait()
        async with asyncio.timeout(10):
            assert (await ada.get("/prepare-data/ready")).status_code == 200
    finally:
        answers.set()
        assert await asyncio.gather(*renewals) == [None] * len(secrets)


async def expire(running: Site, secret: str, seconds: float = 0) -> None:
    """Let the access token of a session end in so many seconds."""
    own = running.app.state.page.sessions

    async def obtain(tokens: Tokens) -> Tokens:
        return Tokens(tokens.access, time.time() + seconds, tokens.refresh)

    await own.renew(secret, await own.find(secret), obtain)


async def test_a_session_whose_token_ends_goes_on_until_the_issuer_says_no(
    running: Site, ada: httpx.AsyncClient
) -> None:
    secret = ada.cookies[SESSION]
    first = await running.app.state.page.sessions.find(secret)
    await expire(running, secret)
    assert (await ada.get("/prepare-data/ui/tasks")).status_code == 200
    second = await running.app.state.page.sessions.find(secret)
    assert second.access != first.access
    # The former refresh token comes again: it was stolen, so that the issuer ends what it stood for.
    assert await running.app.state.page.sign_in.refresh(first) is None
    await expire(running, secret)
    assert (await ada.get("/prepare-data/ui/new")).headers["Location"] == "/prepare-data/ui/?next=%2Fnew"
    assert await running.app.state.page.sessions.find(secret) is None


async def test_a_session_ends_with_its_time(running: Site, ada: httpx.AsyncClient) -> None:
    async with running.app.state.context.ledger.engine.begin() as connection:
        await connection.execute(text("UPDATE page_sessions SET expires = now()"))
    assert (await ada.get("/prepare-data/ui/tasks")).status_code == 303
    events = await ada.get("/prepare-data/ui/events", headers={"Accept": "text/event-stream"})
    assert events.status_code == 401
    assert events.headers["content-type"] == "application/problem+json"


async def test_a_user_stages_and_cancels(running: Site, ada: httpx.AsyncClient) -> None:
    made = await stage(ada)
    assert made.status_code == 303, made.text
    where = made.headers["Location"]
    shown = await ada.get(where)
    assert "testing:one.txt" in shown.text
    assert "/home/ada/testing/two.txt" in shown.text
    assert "0 of 2 files" in (await ada.get("/prepare-data/ui/tasks")).text
    assert "No task is in this state" in (await ada.get("/prepare-data/ui/tasks?show=done")).text
    assert (await ada.post(f"{where}/cancel", headers=SAME)).status_code == 303
    assert "Cancelled" in (await ada.get(where)).text
    again = await ada.post(f"{where}/cancel", headers=SAME)
    assert again.status_code == 409
    assert "The task has ended" in again.text
    assert (await ada.post(f"{where}/retry", headers=SAME)).status_code == 303
    assert "Waiting" in (await ada.get(where)).text
    for change in ("release", "renew"):
        assert (
            await ada.post(f"{where}/{change}", data={"lifetime": "86400"}, headers=SAME)
        ).status_code == 409


async def test_tasks_are_their_owners(running: Site, ada: httpx.AsyncClient) -> None:
    where = (await stage(ada)).headers["Location"]
    async with running.browser() as other:
        await running.sign_in(other, "eve")
        assert where.rpartition("/")[2] not in (await other.get("/prepare-data/ui/tasks")).text
        for method, path in (("GET", ""), ("POST", "/cancel"), ("POST", "/retry"), ("GET", "/events")):
            answer = await other.request(method, where + path, headers=SAME)
            assert answer.status_code == 404
    async with running.browser() as operator:
        await running.sign_in(operator, "olga")
        assert '<td data-label="User">ada</td>' in (await operator.get("/prepare-data/ui/tasks")).text
        assert (await operator.post(f"{where}/cancel", headers=SAME)).status_code == 303


WRONG_REQUESTS: list[tuple[dict[str, str], str]] = [
    ({"dids": "testing:one.txt\n\nnocolon\n"}, "Line 3: "),
    ({"dids": "testing:a\ntesting:a"}, "Line 2: is the same file as item 0"),
    ({"dids": " \n# nothing"}, "Give at least one data identifier"),
    ({"destination": "/etc"}, "Destination: a path must be relative"),
    ({"destination": "a/../../b"}, "Destination: a path must not have the segments"),
    ({"rse": "NOWHERE"}, "this site has default"),
    ({"lifetime": "1"}, "Keep: choose one"),
    ({"lifetime": "2592000"}, "/lifetime: at most"),
]


async def test_what_is_wrong_with_a_request(ada: httpx.AsyncClient) -> None:
    for fields, words in WRONG_REQUESTS:
        answer = await stage(ada, **fields)
        assert answer.status_code == 422, fields
        assert words in html.unescape(answer.text)
        # Nothing that was typed is lost.
        assert html.escape(fields.get("dids", DIDS)).strip() in answer.text


async def test_what_users_write_is_text(running: Site, ada: httpx.AsyncClient) -> None:
    refused = await stage(ada, "testing:</textarea><img/src=x>", destination='"><img>')
    assert refused.status_code == 422
    assert "<img" not in refused.text
    where = (await stage(ada, destination="<b>")).headers["Location"]
    async with running.app.state.context.ledger.engine.begin() as connection:
        await connection.execute(
            text("UPDATE files SET state = :state, fault = '<i>', detail = '<script>x</script>'"),
            {"state": FileState.FAILED},
        )
        await connection.execute(text("UPDATE tasks SET info = '<script>y</script>'"))
    for path in (where, "/prepare-data/ui/tasks"):
        shown = await ada.get(path)
        for tag in ("<b>", "<i>", "<script>"):
            assert tag not in shown.text
        policy = shown.headers["Content-Security-Policy"]
        assert f"script-src {PAGE}/assets/" in policy
        assert "'unsafe" not in policy


async def test_a_task_is_followed(
    running: Site, ada: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preparer.ui.tasks.STREAM", 1.0)
    monkeypatch.setattr("preparer.ui.tasks.LOOK", 0.2)
    where = (await stage(ada)).headers["Location"]
    for path in (f"{where}/events", "/prepare-data/ui/events"):
        answer = await ada.get(path, headers={"Accept": "text/event-stream"})
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.text.count("event: task") == 1
        assert '"amount": "0 of 2 files"' in answer.text
    assert (await ada.get(f"{where}/events?state=STAGED")).text.count("event: file") == 0
    assert (await ada.get(f"{where}/events")).text.count("event: file") == 2


async def test_pages_and_assets_are_small_and_their_own(ada: httpx.AsyncClient) -> None:
    shown = await ada.get("/prepare-data/ui/tasks")
    size = len(shown.content)
    for part in shown.text.split('"'):
        if "/assets/" in part:
            answer = await ada.get(part)
            assert answer.status_code == 200
            assert "immutable" in answer.headers["Cache-Control"]
            size += len(answer.content)
    assert size < 100_000
    assert (await ada.get("/prepare-data/ui/assets/0000/page.js")).status_code == 404
    assert "http://" not in shown.text


async def test_errors_are_pages_for_people(ada: httpx.AsyncClient) -> None:
    missing = await ada.get("/prepare-data/ui/nothing")
    assert (missing.status_code, missing.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "There is nothing here" in missing.text
    problem = await ada.get("/prepare-data/ui/nothing", headers={"Accept": "application/json"})
    assert problem.headers["content-type"] == "application/problem+json"
    assert (await ada.get("/prepare-data/ui")).headers["Location"] == "/prepare-data/ui/"


async def test_without_a_client_there_is_no_page(
    tmp_path: Path, database_url: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    off = {"PREPARER_PAGE_CLIENT_ID": "", "PREPARER_PAGE_CLIENT_SECRET": ""}
    async with site(tmp_path, database_url, key, monkeypatch, **off) as found, found.browser() as browser:
        for path in ("", "/", "/tasks", "/assets/x/page.js", "/signed-in"):
            assert (await browser.get(f"/prepare-data/ui{path}")).status_code == 404


def test_a_client_needs_a_secret_and_a_scope(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREPARER_PAGE_CLIENT_ID", "page")
    with pytest.raises(SystemExit, match="preparer_page_client_secret"):
        create_app()
    monkeypatch.setenv("PREPARER_PAGE_SCOPE", "profile")
    with pytest.raises(SystemExit):
        create_app()
    assert "preparer_page_scope: openid is missing" in capsys.readouterr().err


async def test_the_issuer_is_asked_for_an_audience_if_there_is_one(
    tmp_path: Path, database_url: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"PREPARER_PAGE_AUDIENCE": URL, "PREPARER_PAGE_SCOPE": "openid offline_access"}
    async with (
        site(tmp_path, database_url, key, monkeypatch, **settings) as found,
        found.browser() as browser,
    ):
        asked = parse_qs(urlsplit((await browser.get("/prepare-data/ui/sign-in")).headers["Location"]).query)
    assert (asked["audience"], asked["scope"]) == ([URL], ["openid offline_access"])
