"""What every service refuses before it looks at a request, and what it tells browsers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from fastapi import FastAPI, Form, Request
from fastapi.responses import PlainTextResponse, Response
from voservice.browsers import HEADERS, SANDBOX, is_of, origin
from voservice.config import ServiceSettings
from voservice.middleware import protect

Make = Callable[..., httpx.AsyncClient]


@pytest.fixture
async def serving() -> AsyncIterator[Make]:
    """Makes a client of an application with settings of one's own."""
    clients: list[httpx.AsyncClient] = []

    def make(largest: int | None = None, **settings: object) -> httpx.AsyncClient:
        app = FastAPI()
        chosen = ServiceSettings.model_validate({"public_url": "https://vo.example:8443", **settings})
        protect(app, chosen, lambda status, reason: PlainTextResponse(reason, status), largest)

        @app.api_route("/things", methods=["GET", "POST", "PUT", "DELETE"])
        async def things(request: Request) -> dict[str, object]:
            return {"size": len(await request.body()), "foreign": request.state.foreign}

        @app.post("/form")
        async def form(word: str = Form("")) -> str:
            return word

        @app.get("/file")
        async def file() -> Response:
            return Response(b"<script>", headers=SANDBOX, media_type="text/html")

        client = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="https://vo.example:8443")
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.aclose()


FOREIGN = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "https://evil.example"},
    {"Origin": "https://vo.example"},
    {"Origin": "http://vo.example:8443"},
    {"Origin": "null"},
    {"Origin": "https://vo.example:8443:1"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "https://evil.example"},
]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_pages_of_other_sites_change_nothing(
    serving: Make, method: str, headers: dict[str, str]
) -> None:
    answer = await serving().request(method, "/things", headers=headers)
    assert answer.status_code == 403
    assert answer.text.startswith("the request comes from a page of another site (")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://vo.example:8443"},
        {"Origin": "https://VO.example:8443"},
        {"Sec-Fetch-Site": "none"},
    ],
)
async def test_own_pages_and_programs_do(serving: Make, headers: dict[str, str]) -> None:
    answer = await serving().post("/things", headers=headers)
    assert answer.json() == {"size": 0, "foreign": False}


async def test_reading_is_left_to_the_browser_s_own_rules(serving: Make) -> None:
    answer = await serving().get("/things", headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.json()["foreign"] is True


def test_a_port_that_the_scheme_implies() -> None:
    assert origin("https://vo.example/src") == origin("https://vo.example:443")


async def test_answers_tell_browsers_to_be_careful(serving: Make) -> None:
    client = serving()
    for path in ("/things", "/nothing"):
        told = (await client.get(path)).headers
        assert {name: told[name] for name in HEADERS} == HEADERS
    shown = (await client.get("/file")).headers
    assert shown.get_list("Content-Security-Policy") == ["sandbox"]
    assert shown["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("kind", "taken"),
    [("", True), ("text/xml", True), ("Text/XML; charset=utf-8", True), ("text/plain", False),
     ("application/x-www-form-urlencoded", False), ("text/xml,text/plain", False)],
)  # fmt: skip
def test_media_types_of_documents(kind: str, taken: bool) -> None:
    assert is_of(kind, "text/xml") is taken


# -- bodies --------------------------------------------------------------------------------------------------


async def parts(*pauses: tuple[float, bytes]) -> AsyncIterator[bytes]:
    for pause, part in pauses:
        await asyncio.sleep(pause)
        yield part


async def test_a_body_that_is_dribbled_is_ended(serving: Make) -> None:
    client = serving(body_patience=0.2, body_pace=100)
    dribbled = parts(*[(0.05, b".")] * 20)
    answer = await client.post("/things", content=dribbled)
    assert answer.status_code == 408
    assert answer.json()["detail"] == "received less than 20 bytes of the body in 0.2 s"
    assert answer.headers["Connection"] == "close"


async def test_a_byte_at_the_last_moment_buys_no_time(serving: Make) -> None:
    """One that arrives while the service is too busy to notice that the time is over."""

    async def late() -> AsyncIterator[bytes]:
        time.sleep(0.25)  # noqa: ASYNC251 - nothing else may run
        yield b"."

    answer = await serving(body_patience=0.2, body_pace=100).post("/things", content=late())
    assert answer.status_code == 408


async def test_a_burst_buys_no_silence(serving: Make) -> None:
    client = serving(body_patience=0.2, body_pace=100)
    answer = await client.post("/things", content=parts((0, b"." * 100_000), (0.21, b"."), (0.5, b".")))
    assert answer.status_code == 408


async def test_a_form_that_is_dribbled_is_ended(serving: Make) -> None:
    client = serving(body_patience=0.2, body_pace=100)
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await client.post("/form", content=parts((0, b"word="), (5, b"x")), headers=kind)
    assert answer.status_code == 408


async def test_a_slow_body_is_taken(serving: Make) -> None:
    client = serving(body_patience=1, body_pace=10)
    answer = await client.post("/things", content=parts(*[(0.05, b"." * 20)] * 30))
    assert answer.json()["size"] == 600


async def test_a_body_that_is_longer_than_any_is_ended(serving: Make) -> None:
    client = serving(largest=1000)
    assert (await client.post("/things", content=parts(*[(0, b"." * 500)] * 2))).json()["size"] == 1000
    for path in ("/things", "/form"):
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = await client.post(path, content=parts(*[(0, b"." * 500)] * 3), headers=kind)
        assert answer.status_code == 413
