"""Checks of the interactive API page, for the tests of all services."""

from __future__ import annotations

import re
from typing import Any

import httpx


async def shown_api(http: httpx.AsyncClient, page: httpx.URL) -> dict[str, Any]:
    """Load everything that the *page* of an API refers to, as a browser does; return the API's document.

    Fails unless the service itself serves all of it with the right content type, below the page's own prefix.
    """
    prefix = str(page).removesuffix("docs")
    served: dict[str, str] = {}

    async def follow(base: httpx.URL, name: str, kind: str) -> httpx.Response:
        url = base.join(name)
        assert str(url).startswith(prefix), url
        answer = await http.get(url)
        assert answer.status_code == 200, url
        assert answer.headers["content-type"].split(";")[0] == kind, url
        served[str(url)] = answer.text
        return answer

    shown = await follow(page, "", "text/html")
    policy = shown.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "//" not in policy
    kinds = {"css": "text/css", "js": "text/javascript"}
    names = [name for name in re.findall(r'(?:href|src)="([^"]*)"', shown.text) if name != "data:,"]
    assert len(names) == 3
    for name in names:
        await follow(page, name, kinds[name.rpartition(".")[2]])
    start = next(text for url, text in served.items() if url.endswith("/start.js"))
    assert "//" not in start
    found = re.search(r'"url": "([^"]*)"', start)
    assert found is not None
    document = await follow(page, found[1], "application/json")
    content: dict[str, Any] = document.json()
    assert content["paths"]
    return content
