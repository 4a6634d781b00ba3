"""Containers are listed by pages, of a Cavern that pages and of one that does not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web
from vospace_client.client import Cavern, CavernError

ROOT = "vos://example.org~cavern"
NAMES = ["a b", "b", "c;d", "é"]
NODE = (
    '<v:node xmlns:v="http://www.ivoa.net/xml/VOSpace/v2.0" xmlns:x="http://www.w3.org/2001/XMLSchema-instance"'
    ' x:type="v:ContainerNode"><v:properties/><v:nodes>{}</v:nodes></v:node>'
)
Make = Callable[[bool], Awaitable[Cavern]]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Return a function that serves a container of `NAMES`, with pages or, as OpenCADC's, without."""
    runners: list[web.AppRunner] = []
    async with aiohttp.ClientSession() as session:

        async def serve(pages: bool) -> Cavern:
            async def node(request: web.Request) -> web.Response:
                if request.match_info["path"] != "home/ada":
                    return web.Response(status=404, text="NodeNotFound: it")
                names = list(reversed(NAMES))
                if pages:
                    start = next((n for n in NAMES if request.query.get("uri", "").endswith(quote(n))), "")
                    names = [name for name in NAMES if name >= start][: int(request.query["limit"])]
                elif "uri" in request.query:
                    return web.Response(status=400, text="OptionNotSupported: uri")
                inside = "".join(
                    f'<v:node uri="{ROOT}/home/ada/{quote(name)}"><v:properties/></v:node>' for name in names
                )
                return web.Response(text=NODE.format(inside), content_type="text/xml")

            app = web.Application()
            app.router.add_get("/nodes/{path:.*}", node)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            runners.append(runner)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            return Cavern(f"http://127.0.0.1:{runner.addresses[0][1]}", ROOT, session)

        yield serve
    for runner in runners:
        await runner.cleanup()


@pytest.mark.parametrize("pages", [True, False])
async def test_every_child_is_on_one_page(make: Make, pages: bool) -> None:
    cavern = await make(pages)
    seen: list[str] = []
    start: str | None = None
    while True:
        node, children, start = await cavern.listing("/home/ada", "token", 3, start)
        assert node.kind == "ContainerNode"
        assert len(children) <= 3
        seen += children
        if start is None:
            break
    assert seen == NAMES


async def test_a_container_that_is_not_there_is_an_error(make: Make) -> None:
    with pytest.raises(CavernError, match="NodeNotFound"):
        await (await make(True)).listing("/home/bob", "token", 3)
