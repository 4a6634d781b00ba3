"""The page that shows an API: whole without other sites, below any prefix."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI
from voservice import docs
from voservice.testing_docs import shown_api


def application(prefix: str = "") -> FastAPI:
    app = FastAPI(
        title="<Probe> & co",
        docs_url=None,
        redoc_url=None,
        openapi_url=f"{prefix}/openapi.json",
    )
    docs.install(app, prefix)

    @app.get(f"{prefix}/{{anything:path}}")
    async def last(anything: str) -> str:
        return anything

    return app


@pytest.mark.parametrize(
    ("prefix", "taken_away"),
    [("", ""), ("/src/cavern", ""), ("", "/prepare-data"), ("/inner", "/outer/one")],
    ids=["at the root", "known to the application", "taken away by a proxy", "both"],
)
async def test_the_page_is_whole(prefix: str, taken_away: str) -> None:
    transport = httpx.ASGITransport(application(prefix), root_path=taken_away)
    async with httpx.AsyncClient(transport=transport, base_url="https://vo.example") as http:
        page = httpx.URL(f"https://vo.example{taken_away}{prefix}/docs")
        shown = await shown_api(http, page)
        assert list(shown["paths"]) == [f"{prefix}/{{anything}}"]
        assert "<title>&lt;Probe&gt; &amp; co</title>" in (await http.get(page)).text


async def test_nothing_but_the_page_needs_is_served_of_the_package() -> None:
    transport = httpx.ASGITransport(application())
    async with httpx.AsyncClient(transport=transport, base_url="https://vo.example") as http:
        for name in ("redoc.standalone.js", "favicon.png", "../core.py", "%2e%2e/core.py", "oauth2-redirect"):
            answer = await http.get(f"/docs/{name}")
            assert answer.headers["content-type"] == "application/json", name


async def test_what_a_browser_has_is_not_sent_again() -> None:
    transport = httpx.ASGITransport(application())
    async with httpx.AsyncClient(transport=transport, base_url="https://vo.example") as http:
        had = await http.get("/docs/swagger-ui-bundle.js")
        again = await http.get("/docs/swagger-ui-bundle.js", headers={"If-None-Match": had.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("options", [{}, {"docs_url": None, "openapi_url": "/elsewhere.json"}])
def test_an_application_with_another_page_is_refused(options: dict[str, str | None]) -> None:
    with pytest.raises(ValueError, match="docs_url=None"):
        docs.install(FastAPI(**options))
