"""Whatever is sent: no 500, nothing outside the space, nothing half-done."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote, quote_from_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lxml import etree
from vospace.models.uri import XML_SPACE

ADA = {"Authorization": "Bearer ada"}
VOS = "{http://www.ivoa.net/xml/VOSpace/v2.0}"
CORE = "ivo://ivoa.net/vospace/core#"
ROOT = "vos://opencadc.org~cavern"
XML = {"Content-Type": "text/xml"}
NODE = (
    '<?xml version="1.0"?><vos:node xmlns:vos="http://www.ivoa.net/xml/VOSpace/v2.0" uri="{uri}"'
    ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="vos:ContainerNode"><vos:properties>'
    '<vos:property uri="ivo://ivoa.net/vospace/core#title">a title</vos:property></vos:properties>'
    "<vos:nodes/></vos:node>"
)
TRANSFER = (
    '<vos:transfer xmlns:vos="http://www.ivoa.net/xml/VOSpace/v2.0" version="2.1"><vos:target>{target}</vos:target>'
    "<vos:direction>{direction}</vos:direction>"
    '<vos:protocol uri="ivo://ivoa.net/vospace/core#httpsget"/></vos:transfer>'
)

RESERVED = "%/?#[]@!$&'()*+,;= \"<>\\^`{|}~.:-_"
TEXT = st.text(min_size=1, max_size=90)
NAMES = st.one_of(
    TEXT,
    st.text(RESERVED, min_size=1, max_size=20),
    st.sampled_from(
        ["é", "e\u0301", "\u202eabc", "..", "...", " ", "-", "%41", "%2541", "CON", "a\tb", "\U0001f600"]
    ),
    st.integers(250, 260).map(lambda size: "n" * size),
    st.integers(124, 130).map(lambda size: "é" * size),
)


def snapshot(root: Path) -> list[str]:
    """All that is beside the space."""
    return sorted(str(p.relative_to(root.parent)) for p in root.parent.rglob("*") if root not in p.parents)


@given(name=NAMES, body=st.binary(max_size=50))
async def test_any_name(client, names, root, name, body):
    """A name is refused, or comes back in every form in which a client meets it."""
    box = f"/{names()}"
    await client.put(f"/nodes{box}", content=NODE.replace(' uri="{uri}"', ""), headers=ADA)
    outside = snapshot(root)
    url = f"{box}/{quote(name.encode('utf-8', 'surrogatepass'), safe='')}"
    put = await client.put(f"/files{url}", content=body, headers=ADA)
    assert put.status_code in (201, 400, 403, 404), put.text
    assert snapshot(root) == outside
    if put.status_code != 201:
        return
    assert os.listdir(root / box[1:]) == [name]
    assert (await client.get(f"/files{url}", headers=ADA)).content == body
    listing = await client.get(f"/nodes{box}", headers=ADA)
    uri = etree.fromstring(listing.content).find(f"{VOS}nodes")[0].get("uri")
    assert etree.fromstring((await client.get(f"/nodes{url}", headers=ADA)).content).get("uri") == uri
    # The URI that was written is understood where URIs are read.
    paged = await client.get(f"/nodes{box}", params={"uri": uri}, headers=ADA)
    assert etree.fromstring(paged.content).find(f"{VOS}nodes")[0].get("uri") == uri
    negotiated = await client.post(
        "/synctrans",
        content=TRANSFER.format(target=uri.replace("&", "&amp;"), direction="pullFromVoSpace"),
        headers=ADA | XML,
    )
    job = negotiated.headers["location"].split("/results/")[0].removeprefix("http://space/src/cavern")
    assert (await client.get(f"{job}/phase", headers=ADA)).text == "EXECUTING"
    assert (await client.delete(f"/nodes{url}", headers=ADA)).status_code == 200


@given(
    raw=st.binary(min_size=1, max_size=60), suffix=st.sampled_from(["", "/", "/x", "/..", "/%2e%2e/x", "//"])
)
@example(raw=b"..", suffix="/../../etc/passwd")
@example(raw=b"%2e%2e%2f", suffix="")
@example(raw=b"\xff\xfe", suffix="")
@example(raw=b"\x00", suffix="")
async def test_any_path(client, box, root, raw, suffix):
    outside = snapshot(root)
    path = f"{box}/{quote_from_bytes(raw, safe='')}{suffix}"
    for method, where, content in (
        ("PUT", "nodes", NODE.replace(' uri="{uri}"', "").encode()),
        ("GET", "nodes", None),
        ("GET", "files", None),
        ("HEAD", "files", None),
        ("POST", "nodes", NODE.replace(' uri="{uri}"', "").encode()),
        ("DELETE", "nodes", None),
    ):
        answer = await client.request(method, f"/{where}{path}", content=content, headers=ADA)
        assert answer.status_code < 500, (method, where, answer.text)
    assert snapshot(root) == outside


PIECES = st.one_of(st.binary(max_size=8), st.sampled_from([b"<", b"&", b"]]>", b"&#0;"]))


@given(data=st.data())
async def test_any_document(client, box, data):
    """Documents in which bytes were changed, cut out or put in."""
    name = "x"
    good = {
        "nodes": NODE.format(uri=f"{ROOT}{box}/{name}").encode(),
        "synctrans": TRANSFER.format(target=f"{ROOT}{box}", direction="pullFromVoSpace").encode(),
        "transfers": TRANSFER.format(target=f"{ROOT}{box}", direction=f"{ROOT}{box}/y").encode(),
        "async-setprops": NODE.format(uri=f"{ROOT}{box}/{name}").encode(),
    }
    where = data.draw(st.sampled_from(sorted(good)))
    document = bytearray(good[where])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(document)))
        length = data.draw(st.integers(0, 12))
        document[at : at + length] = data.draw(PIECES)
    method = "PUT" if where == "nodes" else "POST"
    path = f"/nodes{box}/{name}" if where == "nodes" else f"/{where}"
    answer = await client.request(method, path, content=bytes(document), headers=ADA | XML)
    assert answer.status_code < 500, (bytes(document), answer.text)
    if where == "nodes" and answer.status_code == 201:
        await client.delete(path, headers=ADA)


@pytest.mark.parametrize(
    "document",
    [
        '<!DOCTYPE x [<!ENTITY a "lol">'
        + "".join(f'<!ENTITY a{n} "{"&a" + str(n - 1) + ";" if n else "&a;" * 10}">' for n in range(10))
        + "]><node>&a9;</node>",
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><node>&a;</node>',
        '<!DOCTYPE x SYSTEM "http://127.0.0.1:1/x.dtd"><node/>',
        '<!DOCTYPE x [<!ENTITY % p SYSTEM "http://127.0.0.1:1/x"> %p;]><node/>',
        "<a>" * 5000,
        "<a " + " ".join(f'b{n}="c"' for n in range(2000)) + "/>",
        '<?xml version="1.0" encoding="UTF-16"?><node/>',
        '<?xml version="1.0" encoding="nonsense"?><node/>',
        "\ufeff<node/>",
        "<node/><node/>",
        '<node xmlns="http://www.w3.org/2001/XInclude"><include href="file:///etc/passwd"/></node>',
        "<node>" + "x" * 40_000 + "</node>",
    ],
)
async def test_documents_that_attack(client, box, document):
    for method, path in (
        ("PUT", f"/nodes{box}/x"),
        ("POST", f"/nodes{box}"),
        ("POST", "/synctrans"),
        ("POST", "/transfers"),
        ("POST", "/async-setprops"),
    ):
        answer = await client.request(method, path, content=document.encode(), headers=ADA | XML)
        assert answer.status_code in (400, 413), answer.text
        assert "root:" not in answer.text


@given(key=st.text(max_size=300), value=st.text(max_size=5000))
@example(key="ivo://ivoa.net/vospace/core#MD5", value="x")
@example(key="ivo://skao.int/vospace/core#stamp", value="1:1")
@example(key="ivo://ivoa.net/vospace/core#quota", value="9" * 400)
@example(key="k", value="x" * 5000)
@example(key="\xa0", value="\xa0a\u2028")
async def test_any_property(client, box, key, value):
    """A property is refused whole, or read back as it was given."""
    root = etree.fromstring(NODE.format(uri=ROOT + box).encode())
    element = root[0][0]
    try:
        element.set("uri", key)
        element.text = value
    except ValueError:  # XML cannot say it
        return
    before = (await client.get(f"/nodes{box}", headers=ADA)).content
    answer = await client.post(f"/nodes{box}", content=etree.tostring(root), headers=ADA)
    assert answer.status_code in (200, 400, 413), answer.text
    if answer.status_code != 200:
        assert (await client.get(f"/nodes{box}", headers=ADA)).content == before
        return
    found = {p.get("uri"): p.text or "" for p in etree.fromstring(answer.content).iter(f"{VOS}property")}
    known = key.strip(XML_SPACE)
    if known.startswith("ivo:"):
        return
    # An empty property is none.
    assert found.get(known, "") == value.strip(XML_SPACE)
    element.set("{http://www.w3.org/2001/XMLSchema-instance}nil", "true")
    element.text = None
    assert (await client.post(f"/nodes{box}", content=etree.tostring(root), headers=ADA)).status_code == 200


ODD = [f"{ROOT}/x", "-0", str(2**31), str(2**63), "0001-01-01T00:00:00+23:59"]


@given(
    where=st.sampled_from(
        ["/nodes", "/files", "/transfers", "/synctrans", "/availability", "/async-delete", "/pkg"]
    ),
    query=st.dictionaries(
        st.sampled_from(
            [
                "detail",
                "limit",
                "uri",
                "view",
                "sort",
                "order",
                "Accept",
                "PHASE",
                "LAST",
                "AFTER",
                "TARGET",
                "DIRECTION",
                "PROTOCOL",
                "RUNID",
            ]
        ),
        st.one_of(st.text(max_size=20), st.integers().map(str), st.sampled_from(ODD)),
        max_size=4,
    ),
)
@example(where="/transfers", query={"LAST": str(2**63)})
@example(where="/transfers", query={"AFTER": ODD[-1]})
async def test_any_query(client, box, where, query):
    path = where + box if where in ("/nodes", "/files") else where
    answer = await client.get(path, params=query, headers=ADA)
    assert answer.status_code < 500, answer.text


@given(
    headers=st.dictionaries(
        st.sampled_from(
            [
                "Range",
                "If-Range",
                "If-Match",
                "If-None-Match",
                "If-Modified-Since",
                "If-Unmodified-Since",
                "Digest",
                "Content-MD5",
                "Repr-Digest",
                "Want-Digest",
                "Want-Repr-Digest",
                "Content-Type",
                "Content-Encoding",
                "Accept",
                "Expect",
                "X-Total-Length",
                "Content-Range",
            ]
        ),
        st.one_of(
            st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40),
            st.from_regex(r"bytes=[0-9]{0,4}-[0-9]{0,4}", fullmatch=True),
            st.sampled_from(
                [
                    "bytes=-0",
                    "md5=",
                    "md5=AAAAAAAAAAAAAAAAAAAAAA==",
                    "sha=x",
                    "sha-256=:AAAA:, md5=7;x",
                    "md5;q=0.5, adler32",
                    "*",
                    "Thu, 01 Jan 9999 00:00:00 GMT",
                ]
            ),
        ),
        max_size=3,
    )
)
async def test_any_header(client, box, headers):
    url = f"/files{box}/headers"
    await client.put(url, content=b"0123456789", headers=ADA)
    for method in ("GET", "HEAD"):
        answer = await client.request(method, url, headers=ADA | headers)
        assert answer.status_code in (200, 206, 304, 412, 416), answer.text
        if method == "GET" and answer.status_code == 206:
            assert answer.content in b"0123456789"
    put = await client.put(url, content=b"other", headers=ADA | headers)
    assert put.status_code in (201, 400, 412), put.text
    kept = (await client.get(url, headers=ADA)).content
    assert kept == (b"other" if put.status_code == 201 else b"0123456789")
