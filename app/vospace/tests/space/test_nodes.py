"""Nodes over HTTP: Cavern's status codes and bodies, and what lies on disk."""

from __future__ import annotations

import os
import stat
from urllib.parse import quote, unquote

import pytest
from lxml import etree

pytestmark = pytest.mark.parametrize("metadata", ["xattrs", "sidecar"], indirect=True, scope="session")
"""Whichever way properties are kept."""

VOS = "{http://www.ivoa.net/xml/VOSpace/v2.0}"
CORE = "ivo://ivoa.net/vospace/core#"
ROOT = "vos://opencadc.org~cavern"
TEAM = "ivo://opencadc.org/gms?team"
MINIMAL = (
    '<?xml version="1.0" encoding="UTF-8"?><node xmlns="http://www.ivoa.net/xml/VOSpace/v2.0"'
    ' xsi:type="vs:ContainerNode" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
    ' xmlns:vs="http://www.ivoa.net/xml/VOSpace/v2.0"/>'
)


def properties(content: bytes) -> dict[str, str]:
    root = etree.fromstring(content)
    return {p.get("uri"): p.text or "" for p in root.find(f"{VOS}properties")}


def children(content: bytes) -> list[str]:
    nodes = etree.fromstring(content).find(f"{VOS}nodes")
    return [child.get("uri").rsplit("/", 1)[1] for child in nodes]


@pytest.mark.parametrize("kind", ["application/xml", "text/xml; charset=utf-8", None])
async def test_the_shortest_document_makes_a_container(client, ada, names, root, kind):
    name = names()
    headers = ada | ({"Content-Type": kind} if kind else {})
    answer = await client.put(f"/nodes/{name}", content=MINIMAL, headers=headers)
    assert answer.status_code == 201
    assert answer.headers["content-type"].startswith("text/xml")
    assert answer.headers["x-vo-authenticated"] == "ada"
    found = (root / name).stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o770, 10001, 10001)
    assert (await client.put(f"/nodes/{name}", content=MINIMAL, headers=ada)).status_code == 409


async def test_who_may_create_where(client, ada, bob, box, names):
    assert (await client.put(f"/nodes/{names()}", content=MINIMAL)).status_code == 403
    answer = await client.put(f"/nodes{box}/x", content=MINIMAL, headers=bob)
    assert (answer.status_code, answer.text.split(":")[0]) == (403, "PermissionDenied")
    assert (await client.put(f"/nodes{box}/a/b", content=MINIMAL, headers=ada)).status_code == 404
    assert (await client.put("/nodes/home/bob", content=MINIMAL, headers=ada)).status_code == 403
    assert (await client.put("/nodes/home/ada", content=MINIMAL, headers=ada)).status_code in (201, 409)
    assert (await client.put("/nodes/home/other", content=MINIMAL, headers=ada)).status_code == 403


async def test_the_admin_makes_allocations_for_others(client, ada, bob, document, names, root):
    admin = {"Authorization": "Bearer cavernadmin"}
    name = names()
    content = document("ContainerNode", properties={f"{CORE}creator": "bob", f"{CORE}quota": "1000"})
    assert (await client.put(f"/nodes/projects/{name}", content=content, headers=admin)).status_code == 201
    assert (root / "projects" / name).stat().st_uid == 10002
    put = await client.put(f"/files/projects/{name}/f", content=b"x" * 2000, headers=bob)
    assert (put.status_code, put.text) == (413, "limit: 1000\n")
    assert os.listdir(root / "projects" / name) == []
    assert (await client.put(f"/files/projects/{name}/f", content=b"x" * 900, headers=bob)).status_code == 201
    assert (await client.put(f"/files/projects/{name}/g", content=b"x" * 200, headers=bob)).status_code == 413


@pytest.mark.parametrize(
    ("content", "status", "text"),
    [
        (b"", 400, "InvalidArgument: no node document"),
        (b"<x/>", 400, "InvalidArgument: invalid input"),
        (b"<<<", 400, "InvalidArgument: invalid input"),
        (MINIMAL.replace("vs:ContainerNode", "vs:OddNode").encode(), 400, "TypeNotSupported"),
        (MINIMAL.replace(' xsi:type="vs:ContainerNode"', "").encode(), 400, "InvalidArgument"),
        (MINIMAL.replace("vs:ContainerNode", "vs:LinkNode").encode(), 400, "InvalidArgument"),
        (
            b'<!DOCTYPE l [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;">]>'
            b'<node xmlns="http://www.ivoa.net/xml/VOSpace/v2.0">&b;</node>',
            400,
            "InvalidArgument",
        ),
        (b"<a>" * 20_000, 413, "RequestEntityToolarge: limit: 32768"),
    ],
)
async def test_bad_documents(client, ada, names, content, status, text):
    answer = await client.put(f"/nodes/{names()}", content=content, headers=ada)
    assert (answer.status_code, answer.text.startswith(text)) == (status, True), answer.text


async def test_uri_and_path_must_agree(client, ada, box, document):
    answer = await client.put(f"/nodes{box}/a", content=document("DataNode", f"{ROOT}{box}/b"), headers=ada)
    assert (answer.status_code, answer.text.split(":")[0]) == (400, "InvalidURI")
    uri = f"vos://opencadc.org!cavern{box}/a"
    assert (
        await client.put(f"/nodes{box}/a", content=document("DataNode", uri), headers=ada)
    ).status_code == 201
    answer = await client.post(f"/nodes{box}/a", content=document("DataNode", f"{ROOT}{box}/b"), headers=ada)
    assert (answer.status_code, answer.text.split(":")[0]) == (400, "InvalidArgument")


async def test_properties_are_kept_changed_and_removed(client, ada, box, document, root, stored):
    given = {f"{CORE}title": "A title", "quality": "good &lt; best", f"{CORE}length": "7"}
    await client.put(f"/nodes{box}/f", content=document("DataNode", properties=given), headers=ada)
    found = properties((await client.get(f"/nodes{box}/f", headers=ada)).content)
    assert (found[f"{CORE}title"], found["quality"], found[f"{CORE}length"]) == (
        "A title",
        "good < best",
        "0",
    )
    assert (found[f"{CORE}creator"], found[f"{CORE}ispublic"]) == ("ada", "false")
    assert stored(root / box[1:] / "f")["quality"] == "good < best"
    change = document("DataNode", properties={"quality": None, "new": "1"})
    answer = await client.post(f"/nodes{box}/f", content=change, headers=ada)
    assert answer.status_code == 200
    found = properties(answer.content)
    assert "quality" not in found
    assert (found["new"], found[f"{CORE}title"]) == ("1", "A title")
    odd = document("DataNode", properties={f"{CORE}nonsense": "1"})
    assert (await client.post(f"/nodes{box}/f", content=odd, headers=ada)).status_code == 400
    wrong = document("ContainerNode")
    assert (await client.post(f"/nodes{box}/f", content=wrong, headers=ada)).status_code == 400
    for number in range(4):  # more than extended attributes or a sidecar take
        huge = document("DataNode", properties={f"big{number}": "x" * 20_000})
        answer = await client.post(f"/nodes{box}/f", content=huge, headers=ada)
    assert (answer.status_code, "cannot be stored" in answer.text) == (400, True)
    assert stored(root / box[1:] / "f")["new"] == "1"


async def test_groups_and_inheritance(client, ada, bob, box, document, root):
    grant = {
        f"{CORE}groupread": TEAM,
        "ivo://cadc.nrc.ca/vospace/core#inheritPermissions": "true",
    }
    answer = await client.post(
        f"/nodes{box}", content=document("ContainerNode", properties=grant), headers=ada
    )
    assert answer.status_code == 200, answer.text
    await client.put(f"/files{box}/f", content=b"text", headers=ada)
    await client.put(f"/nodes{box}/sub", content=MINIMAL, headers=ada)
    await client.put(f"/files{box}/sub/g", content=b"deep", headers=ada)
    for path in ("f", "sub/g"):
        assert (await client.get(f"/files{box}/{path}", headers=bob)).status_code == 200
        assert (await client.get(f"/files{box}/{path}")).status_code == 403
        assert (await client.put(f"/files{box}/{path}", content=b"x", headers=bob)).status_code == 403
    found = properties((await client.get(f"/nodes{box}/sub/g", headers=ada)).content)
    assert found[f"{CORE}groupread"] == TEAM
    grant = {f"{CORE}groupread": None, f"{CORE}groupwrite": TEAM}
    await client.post(f"/nodes{box}", content=document("ContainerNode", properties=grant), headers=ada)
    assert (await client.put(f"/files{box}/h", content=b"x", headers=bob)).status_code == 201
    assert (root / box[1:] / "h").stat().st_uid == 10002


@pytest.mark.parametrize(
    "group",
    [
        "ivo://elsewhere.org/gms?team",
        "ivo://default-group-should-be-ignored.opencadc.org/default-group?bob",
        "ivo://opencadc.org/gms2?team",
    ],
)
async def test_a_node_is_shared_with_groups_of_the_own_service_alone(client, ada, box, document, group):
    """In the words of Cavern: nobody is known to be in any other."""
    for key in (f"{CORE}groupread", f"{CORE}groupwrite"):
        content = document("ContainerNode", properties={key: f"{TEAM} {group}"})
        for answer in (
            await client.post(f"/nodes{box}", content=content, headers=ada),
            await client.put(f"/nodes{box}/sub", content=content, headers=ada),
        ):
            assert (answer.status_code, answer.text) == (400, f"InvalidArgument: non-local groups: {group}\n")
    assert TEAM not in (await client.get(f"/nodes{box}", headers=ada)).text


async def test_who_may_not_share_a_node_gives_no_group_a_number(client, ada, bob, box, document):
    """The double of the POSIX mapper knows one group and would fail."""
    shared = {f"{CORE}groupread": f"{TEAM}-unknown"}
    content = document("ContainerNode", f"{ROOT}{box}", properties=shared)
    new = document("ContainerNode", properties=shared)
    headers = bob | {"Content-Type": "text/xml"}
    for answer in (
        await client.post(f"/nodes{box}", content=content, headers=bob),
        await client.put("/nodes/home/other", content=new, headers=bob),
        await client.post("/async-setprops", content=content, headers=headers),
    ):
        assert (answer.status_code, answer.text.partition(":")[0]) == (403, "PermissionDenied"), answer.text


async def test_public_nodes(client, ada, box, document):
    await client.put(f"/files{box}/f", content=b"text", headers=ada)
    public = {f"{CORE}ispublic": "true"}
    await client.post(f"/nodes{box}", content=document("ContainerNode", properties=public), headers=ada)
    answer = await client.get(f"/nodes{box}")
    assert (answer.status_code, children(answer.content)) == (200, ["f"])
    assert answer.headers["www-authenticate"] == "Bearer"
    assert (await client.get(f"/files{box}/f")).status_code == 403
    await client.post(f"/nodes{box}/f", content=document("DataNode", properties=public), headers=ada)
    assert (await client.get(f"/files{box}/f")).text == "text"
    assert (await client.put(f"/files{box}/f", content=b"x")).status_code == 403
    assert (await client.delete(f"/nodes{box}/f")).status_code == 403


async def test_listing_parameters(client, ada, box):
    for name in ("c", "a", "b"):
        await client.put(f"/files{box}/{name}", content=name.encode() * ord(name), headers=ada)

    async def get(query: str):
        return await client.get(f"/nodes{box}{query}", headers=ada)

    assert children((await get("")).content) == ["a", "b", "c"]
    assert children((await get("/")).content) == ["a", "b", "c"]
    assert children((await get("?limit=0")).content) == []
    assert children((await get("?LIMIT=2")).content) == ["a", "b"]
    assert children((await get(f"?uri=vos://opencadc.org!cavern{box}/b")).content) == ["b", "c"]
    assert children((await get(f"?sort={quote(CORE + 'length', safe='')}&order=desc")).content) == [
        "c",
        "b",
        "a",
    ]
    assert (await get("?limit=-1")).status_code == 400
    assert (await get("?limit=x")).status_code == 400
    assert (await get(f"?uri={ROOT}/elsewhere/b")).text.startswith("InvalidURI")
    assert properties((await get("?detail=min")).content) == {}
    assert properties((await get("?detail=max")).content)["ivo://cadc.nrc.ca/vospace/core#writable"] == "true"
    answer = await get("/a?view=data")
    assert (answer.status_code, answer.headers["location"]) == (303, f"http://space/src/cavern/files{box}/a")
    answer = await get("?Accept=application/json")
    assert answer.json()["vos:node"]["@uri"] == ROOT + box


async def test_deletion(client, ada, bob, box):
    await client.put(f"/files{box}/f", content=b"", headers=ada)
    answer = await client.delete(f"/nodes{box}", headers=ada)
    assert (answer.status_code, "is not empty" in answer.text) == (400, True)
    assert (await client.delete(f"/nodes{box}/f", headers=bob)).status_code == 403
    answer = await client.delete(f"/nodes{box}/f", headers=ada)
    assert (answer.status_code, answer.content) == (200, b"")
    assert (await client.delete(f"/nodes{box}/f", headers=ada)).status_code == 404
    assert (await client.delete(f"/nodes{box}", headers=ada)).status_code == 200
    for path in ("", "/", "/home"):
        assert (await client.delete(f"/nodes{path}", headers=ada)).status_code == 403


async def test_links(client, ada, box, document, root):
    await client.put(f"/files{box}/f", content=b"text", headers=ada)
    link = document("LinkNode", target=f"vos://opencadc.org!cavern{box}/f")
    assert (await client.put(f"/nodes{box}/l", content=link, headers=ada)).status_code == 201
    assert os.readlink(root / box[1:] / "l") == "f"
    answer = await client.get(f"/nodes{box}/l", headers=ada)
    assert etree.fromstring(answer.content).findtext(f"{VOS}target") == f"{ROOT}{box}/f"
    assert (await client.get(f"/files{box}/l", headers=ada)).text == "text"
    assert "l" in (await client.get(f"/files{box}/l", headers=ada)).headers["content-disposition"]
    answer = await client.put(f"/files{box}/l", content=b"new", headers=ada)
    assert (answer.status_code, "not a data node" in answer.text) == (400, True)
    assert (root / box[1:] / "f").read_bytes() == b"text"
    outside = document("LinkNode", target="http://elsewhere.example/x")
    assert (await client.put(f"/nodes{box}/o", content=outside, headers=ada)).status_code == 400
    for name, text, status, fault in (
        ("cycle", "cycle", 404, "UnreadableLinkTarget"),
        ("up", "../../../../etc/passwd", 400, "InvalidArgument"),
        ("abs", "/etc/passwd", 400, "InvalidArgument"),
    ):
        (root / box[1:] / name).symlink_to(text)
        answer = await client.get(f"/files{box}/{name}", headers=ada)
        assert (answer.status_code, answer.text.split(":")[0]) == (status, fault)
        assert (await client.put(f"/files{box}/{name}", content=b"x", headers=ada)).status_code == 400
        assert (await client.get(f"/files{box}/{name}/deeper", headers=ada)).status_code == status
    assert (await client.get(f"/nodes{box}", headers=ada)).status_code == 200


async def test_odd_things_on_disk(client, ada, box, root):
    here = root / box[1:]
    os.mkfifo(here / "fifo")
    (here / "stranger").write_bytes(b"x")
    os.chown(here / "stranger", 54321, 54321)
    (here / ".vospace-leftover").write_bytes(b"x")
    os.mkdir(os.fsencode(here) + b"/\xff\xfe")
    answer = await client.get(f"/nodes{box}", headers=ada)
    assert (answer.status_code, children(answer.content)) == (200, ["stranger"])
    assert (await client.get(f"/files{box}/fifo", headers=ada)).status_code == 400
    assert (await client.get(f"/files{box}/.vospace-leftover", headers=ada)).status_code == 400
    assert b"54321" in (await client.get(f"/nodes{box}/stranger", headers=ada)).content


async def test_a_changed_file_loses_its_checksum(client, ada, box, root):
    await client.put(f"/files{box}/f", content=b"text", headers=ada)
    assert f"{CORE}MD5" in properties((await client.get(f"/nodes{box}/f", headers=ada)).content)
    (root / box[1:] / "f").write_bytes(b"changed")
    assert f"{CORE}MD5" not in properties((await client.get(f"/nodes{box}/f", headers=ada)).content)
    assert "digest" not in (await client.get(f"/files{box}/f", headers=ada)).headers


@pytest.mark.parametrize(
    "path",
    [
        "/../etc",
        "/%2e%2e/etc",
        "/a%2fb",
        "/a/./b",
        "/a//b",
        "/%00",
        "/%ff",
        "/" + "x" * 256,
        "/" + "x/" * 3000,
    ],
)
async def test_paths_that_cannot_be(client, ada, path):
    for method in ("GET", "DELETE"):
        answer = await client.request(method, f"/nodes{path}", headers=ada)
        assert answer.status_code in (400, 403, 404), answer.text


@pytest.mark.parametrize("name", ["a%C2%80", "%C2%9B2J", "x%C2%85y", "%C2%9F"])
async def test_names_hold_no_further_control_characters(client, ada, box, root, name):
    """C1: some terminals obey them as they obey escape sequences."""
    plain = unquote(name)
    for path, content in ((f"/nodes{box}/{name}", MINIMAL), (f"/files{box}/{name}", b"x")):
        answer = await client.put(path, content=content, headers=ada)
        assert (answer.status_code, answer.text.split(":")[0]) == (400, "InvalidURI")
    await client.put(f"/files{box}/f", content=b"x", headers=ada)
    # What a mount or an earlier version brought is found, and taken away.
    (root / box.strip("/") / "f").rename(root / box.strip("/") / plain)
    assert plain in [
        unquote(child) for child in children((await client.get(f"/nodes{box}", headers=ada)).content)
    ]
    assert (await client.get(f"/files{box}/{name}", headers=ada)).content == b"x"
    assert (await client.delete(f"/nodes{box}/{name}", headers=ada)).status_code == 200
