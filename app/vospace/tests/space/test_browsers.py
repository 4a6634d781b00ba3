"""What pages of other sites cannot make a browser do to a space, and what users' files cannot do in it."""

from __future__ import annotations

import pytest

NODE = (
    '<node xmlns="http://www.ivoa.net/xml/VOSpace/v2.0" xsi:type="vs:ContainerNode" uri="{uri}"'
    ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:vs="http://www.ivoa.net/xml/VOSpace/v2.0"/>'
)
TRANSFER = (
    '<transfer xmlns="http://www.ivoa.net/xml/VOSpace/v2.0"><target>{uri}</target>'
    "<direction>pullFromVoSpace</direction>"
    '<protocol uri="ivo://ivoa.net/vospace/core#httpsget"/></transfer>'
)


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "application/octet-stream"]
)
@pytest.mark.parametrize(
    "path", ["/nodes{box}/n", "/nodes{box}", "/transfers", "/synctrans", "/async-setprops"]
)
async def test_a_document_must_say_that_it_is_one(client, ada, box, kind, path):
    method = "PUT" if path.endswith("/n") else "POST"
    uri = f"vos://opencadc.org~cavern{box}" + ("/n" if method == "PUT" else "")
    document = (TRANSFER if "trans" in path else NODE).format(uri=uri)
    answer = await client.request(
        method, path.format(box=box), content=document, headers=ada | {"Content-Type": kind}
    )
    assert (answer.status_code, answer.text.split(":")[0]) == (415, "UnsupportedMediaType")
    assert "Content-Type" in answer.text
    assert (await client.get(f"/nodes{box}/n", headers=ada)).status_code == 404


async def test_a_list_of_files_must_say_that_it_is_one(client, ada):
    headers = ada | {"Content-Type": "text/plain"}
    answer = await client.post("/bulk-pull", content=b'{"rows": []}', headers=headers)
    assert (answer.status_code, answer.text.split(":")[0]) == (415, "UnsupportedMediaType")


async def test_pages_of_other_sites_make_no_node(client, ada, box):
    """A GET of /synctrans makes the node that is to be written."""
    asked = {
        "TARGET": f"vos://opencadc.org~cavern{box}/n",
        "DIRECTION": "pushToVoSpace",
        "PROTOCOL": "ivo://ivoa.net/vospace/core#httpsput",
    }
    headers = ada | {"Sec-Fetch-Site": "cross-site"}
    assert (await client.get("/synctrans", params=asked, headers=headers)).status_code == 403
    assert (await client.get(f"/nodes{box}/n", headers=ada)).status_code == 404
    assert (await client.get("/synctrans", params=asked, headers=ada)).status_code == 303
    assert (await client.get(f"/nodes{box}/n", headers=ada)).status_code == 200


@pytest.mark.parametrize("kind", ["text/html", "image/svg+xml", "text/xml", "application/pdf"])
async def test_users_files_are_shown_in_a_sandbox(client, ada, box, kind):
    await client.put(f"/files{box}/page", content=b"<script>1</script>", headers=ada | {"Content-Type": kind})
    for method in ("GET", "HEAD"):
        told = (await client.request(method, f"/files{box}/page", headers=ada)).headers
        assert told["Content-Type"] == kind
        assert told["Content-Security-Policy"] == "sandbox"
        assert told["X-Content-Type-Options"] == "nosniff"
    part = await client.get(f"/files{box}/page", headers=ada | {"Range": "bytes=0-3"})
    assert (part.status_code, part.headers["Content-Security-Policy"]) == (206, "sandbox")


async def test_names_of_users_are_shown_in_a_sandbox(client, ada, box):
    for path in (f"/nodes{box}", "/transfers", f"/nodes{box}/nothing"):
        told = (await client.get(path, headers=ada)).headers
        assert "sandbox" in told["Content-Security-Policy"]
        assert "default-src 'none'" in told["Content-Security-Policy"]
        assert told["X-Content-Type-Options"] == "nosniff"
