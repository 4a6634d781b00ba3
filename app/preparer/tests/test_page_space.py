"""The space and the operators' view on the page, with a stand-in for Cavern."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from aiohttp import web
from cavern_double import CavernDouble
from page_site import PAGE, SAME, URL, Site, signing_key, site
from preparer.ui import tasks
from voservice.testing import database_url, postgres
from vospace_client.terms import GROUP_READ, INHERIT, PUBLIC

__all__ = ["database_url", "postgres"]

HOME = "/prepare-data/ui/{}/home/ada"
NASTY = "/home/ada/<img src=x>&\"'.txt"


@pytest.fixture(scope="module")
def key() -> str:
    return signing_key()


@pytest.fixture
def cavern() -> CavernDouble:
    double = CavernDouble({}, pulls=True)
    double.nodes["/home/ada"] = None
    double.nodes[NASTY] = b"content"
    return double


@pytest.fixture
async def running(
    tmp_path: Path, database_url: str, key: str, monkeypatch: pytest.MonkeyPatch, cavern: CavernDouble
) -> AsyncIterator[Site]:
    runner = web.AppRunner(cavern.application(), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/cavern"
    settings = {"CAVERN_API_URL": url, "REGISTRY_URL": f"{url}/reg"}
    async with site(tmp_path, database_url, key, monkeypatch, **settings) as found:
        yield found
    await runner.cleanup()


@asynccontextmanager
async def signed_in(running: Site, user: str = "ada") -> AsyncIterator[httpx.AsyncClient]:
    async with running.browser() as browser:
        await running.sign_in(browser, user)
        yield browser


async def test_names_are_text_and_files_are_saved_not_shown(running: Site, cavern: CavernDouble) -> None:
    async with signed_in(running) as ada:
        assert (await ada.get("/prepare-data/ui/space")).headers["Location"] == HOME.format("space")
        shown = await ada.get(HOME.format("space"))
        assert "<img" not in shown.text
        assert html.escape("<img src=x>") in shown.text
        place = "%3Cimg%20src%3Dx%3E%26%22%27.txt"
        assert f'href="/prepare-data/ui/files/home/ada/{place}"' in shown.text
        file = await ada.get(f"{HOME.format('files')}/{place}")
        assert file.content == b"content"
        assert file.headers["Content-Disposition"] == f"attachment; filename*=UTF-8''{place}"
        assert file.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
        assert (await ada.get(f"{HOME.format('files')}/none")).status_code == 404
        for path in ("%2e%2e/x", "a//b", "./x"):
            assert (await ada.get(f"{HOME.format('files')}/{path}")).status_code == 404


async def test_files_come_from_the_page_alone_and_replace_none_by_chance(
    running: Site, cavern: CavernDouble
) -> None:
    where = f"{HOME.format('files')}/new.txt"
    async with signed_in(running) as ada:
        for headers in (
            {},
            {"Origin": "https://evil.example"},
            {"Sec-Fetch-Site": "same-site", "Origin": URL},
        ):
            assert (await ada.put(where, content=b"x", headers=headers)).status_code == 403
        made = await ada.put(where, content=b"one", headers=SAME | {"If-None-Match": "*"})
        assert made.status_code == 201
        again = await ada.put(where, content=b"two", headers=SAME | {"If-None-Match": "*"})
        assert again.status_code == 409
        assert cavern.nodes["/home/ada/new.txt"] == b"one"
        assert (await ada.put(where, content=b"two", headers=SAME)).status_code == 201
        assert cavern.nodes["/home/ada/new.txt"] == b"two"


async def test_folders_moves_and_shares(running: Site, cavern: CavernDouble) -> None:
    async with signed_in(running) as ada:

        async def post(kind: str, place: str = "", **fields: str) -> httpx.Response:
            return await ada.post(HOME.format(kind) + place, data=fields, headers=SAME)

        assert (await post("space", name="results")).status_code == 303
        for wrong, words in (("results", "something called"), ("a/b", "without slashes"), ("..", "neither")):
            refused = await post("space", name=wrong)
            assert refused.status_code in {409, 422}
            assert words in refused.text
        cavern.nodes["/home/ada/x"] = b"x"
        for fields in ({"name": "y", "folder": ""}, {"name": "", "folder": "/home/ada"}, {"name": "a/b"}):
            assert (await post("node", "/x", do="move", **fields)).status_code in {303, 409, 422, 400, 404}
            cavern.nodes.setdefault("/home/ada/x", b"x")
        inside = await post("node", "/results", do="move", name="z", folder="/home/ada/results/deeper")
        assert "it is in what is to be moved" in inside.text
        taken = await post("node", "/x", do="move", name="results", folder="/home/ada")
        assert taken.status_code == 409
        moved = await post("node", "/x", do="move", name="y z", folder="/home/ada/results")
        assert moved.headers["Location"] == f"{HOME.format('space')}/results"
        assert cavern.nodes["/home/ada/results/y z"] == b"x"
        refused = await post("node", "/results", do="share", readers="no group!")
        assert "is no group" in html.unescape(refused.text)
        shared = await post(
            "node", "/results", do="share", readers="survey, ivo://x.org/g?h", public="yes", inherits="yes"
        )
        assert shared.status_code == 303
        assert cavern.properties["/home/ada/results"] | {} == {
            GROUP_READ: "ivo://opencadc.org/gms?survey ivo://x.org/g?h",
            "ivo://ivoa.net/vospace/core#groupwrite": "None",
            PUBLIC: "true",
            INHERIT: "true",
        }
        assert (await post("node", "/results/y z", do="delete")).status_code == 303
        assert "/home/ada/results/y z" not in cavern.nodes
        assert (await post("node", "/results", do="explode")).status_code == 422


async def test_folders_are_offered_from_the_first_of_many_nodes(
    running: Site, cavern: CavernDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    cavern.nodes |= {"/home/ada/a": None, "/home/ada/b": b"file", "/home/ada/c": None, "/home/ada/d": None}
    monkeypatch.setattr(tasks, "LOOKED_AT", 4)
    async with signed_in(running) as ada:
        shown = (await ada.get(f"{PAGE}/new")).text
    offered = re.search("<datalist.*?</datalist>", shown, re.DOTALL)
    assert offered is not None
    assert re.findall('value="([^"]*)"', offered[0]) == ["a", "c"]


async def test_a_refusal_of_cavern_is_told(running: Site, cavern: CavernDouble) -> None:
    cavern.forbidden.add("/home/ada/mine")
    async with signed_in(running) as ada:
        refused = await ada.post(HOME.format("space"), data={"name": "mine"}, headers=SAME)
        assert refused.status_code == 403
        assert "You may not do this" in refused.text
        assert (await ada.get("/prepare-data/ui/space/home/bob")).status_code == 404


async def test_only_operators_see_how_the_service_does(running: Site) -> None:
    async with signed_in(running) as ada:
        for path in ("operators", "operators/dead-letters"):
            assert (await ada.get(f"/prepare-data/ui/{path}")).status_code == 404
            assert (await ada.post(f"/prepare-data/ui/{path}", headers=SAME)).status_code in {404, 405}
        assert "Operators" not in (await ada.get("/prepare-data/ui/tasks")).text
    async with signed_in(running, "olga") as olga:
        shown = await olga.get("/prepare-data/ui/operators")
        assert shown.status_code == 200
        # There is no broker, and neither does the stand-in say whether it is available, nor is there a registry.
        assert shown.text.count("Does not serve") == 3
        assert (await olga.get("/prepare-data/ui/operators/dead-letters")).status_code == 503
        wrong = await olga.post("/prepare-data/ui/operators/mode", data={"mode": "x"}, headers=SAME)
        assert wrong.status_code == 422
