"""What OpenCADC's Cavern answers byte by byte: content types, methods, faults, renderings, spellings."""

from __future__ import annotations

import json
import os

import httpx
import pytest
from lxml import etree
from voservice.testing_docs import shown_api
from vospace.config import Settings

pytestmark = pytest.mark.parametrize("metadata", ["xattrs", "sidecar"], indirect=True, scope="session")
"""Whichever way properties are kept."""

VOS = "{http://www.ivoa.net/xml/VOSpace/v2.0}"
XSI = "{http://www.w3.org/2001/XMLSchema-instance}"
CORE = "ivo://ivoa.net/vospace/core#"
ROOT = "vos://opencadc.org~cavern"
ADMIN = {"Authorization": "Bearer cavernadmin"}
BASE = "http://space/src/cavern"
TRANSFER = (
    '<vos:transfer xmlns:vos="http://www.ivoa.net/xml/VOSpace/v2.0" version="2.1"><vos:target>{target}</vos:target>'
    '<vos:direction>{direction}</vos:direction><vos:protocol uri="{core}httpsget">'
    '<vos:securityMethod uri="ivo://ivoa.net/sso#token"/></vos:protocol></vos:transfer>'
)


async def test_documents_and_faults_are_typed_without_a_charset(client, ada, box):
    await client.put(f"/files{box}/f", content=b"x", headers=ada)
    for path in (f"/nodes{box}", f"/nodes{box}/f", "/capabilities", "/availability", "/transfers"):
        answer = await client.get(path, headers=ada)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/xml"), path
    missing = await client.get(f"/nodes{box}/none", headers=ada)
    assert missing.headers["content-type"] == "text/plain"
    assert missing.text == f"NodeNotFound: {ROOT}{box}/none\n"


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [
        ("/nodes/x", "PATCH", {"GET", "PUT", "POST", "DELETE"}),
        ("/files/x", "POST", {"GET", "HEAD", "PUT"}),
        ("/files/x", "DELETE", {"GET", "HEAD", "PUT"}),
        ("/synctrans", "PUT", {"GET", "POST"}),
        ("/capabilities", "POST", {"GET", "HEAD"}),
        ("/availability", "DELETE", {"GET", "HEAD", "POST"}),
    ],
)
async def test_methods_that_are_not_there(client, ada, path, method, allowed):
    answer = await client.request(method, path, headers=ada)
    assert (answer.status_code, answer.text) == (405, f"unsupported: HTTP {method}\n")
    assert set(answer.headers["allow"].split(", ")) == allowed
    assert answer.headers["content-type"] == "text/plain"


async def test_head_of_vosi(client):
    for path in ("/capabilities", "/availability"):
        answer = await client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")


async def test_an_anonymous_put_is_told_what_is_wrong_in_order(client, box, document):
    async def put(path):
        return await client.put(f"/nodes{path}", content=document("ContainerNode"))

    assert (await put("/none/x")).text.startswith("ContainerNotFound")
    taken = await put(box)
    assert (taken.status_code, taken.text) == (409, f"DuplicateNode: {ROOT}{box}\n")
    refused = await put(f"{box}-new")
    assert (refused.status_code, "Bearer TOKEN" in refused.text) == (403, True)


async def test_the_json_rendering(client, ada, box, document):
    await client.put(f"/files{box}/f", content=b"text", headers=ada | {"Content-Type": "text/plain"})
    await client.put(f"/nodes{box}/l", content=document("LinkNode", target=f"{ROOT}{box}/f"), headers=ada)
    answer = await client.get(f"/nodes{box}?Accept=application/json", headers=ada)
    assert answer.headers["content-type"] == "application/json"
    node = json.loads(answer.text)["vos:node"]
    assert (node["@uri"], node["@xsi:type"]) == (ROOT + box, "vos:ContainerNode")
    assert node["@xmlns:vos"] == VOS.strip("{}")
    creator = next(p for p in node["vos:properties"]["$"] if p["@uri"] == f"{CORE}creator")
    assert creator == {"@uri": f"{CORE}creator", "@readOnly": "true", "$": "ada"}
    file, link = node["vos:nodes"]["$"]
    assert (file["@xsi:type"], file["@busy"], file["vos:accepts"]) == ("vos:DataNode", False, {"$": []})
    assert {p["@uri"]: p["$"] for p in file["vos:properties"]["$"]}[f"{CORE}length"] == "4"
    assert link["vos:target"] == {"$": f"{ROOT}{box}/f"}


@pytest.mark.parametrize("count", [999, 1000, 1001, 2500])
async def test_long_listings_are_whole_in_either_rendering(client, ada, box, root, count):
    for number in range(count):
        (root / box[1:] / f"{number:04d}").touch()
    wanted = [f"{ROOT}{box}/{number:04d}" for number in range(count)]
    answer = await client.get(f"/nodes{box}", headers=ada)
    assert int(answer.headers["content-length"]) == len(answer.content)
    listed = etree.fromstring(answer.content).find(f"{VOS}nodes")
    assert [child.get("uri") for child in listed] == wanted
    answer = await client.get(f"/nodes{box}?Accept=application/json&detail=min", headers=ada)
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert [child["@uri"] for child in answer.json()["vos:node"]["vos:nodes"]["$"]] == wanted


async def test_external_links_are_kept_and_never_followed(client, ada, box, document, root):
    link = document("LinkNode", target="file:///somewhere/a%20b")
    made = await client.put(f"/nodes{box}/l", content=link, headers=ada)
    assert made.status_code == 201
    assert os.readlink(root / box[1:] / "l") == "/somewhere/a b"
    assert etree.fromstring(made.content).findtext(f"{VOS}target") == "file:///somewhere/a%20b"
    followed = await client.get(f"/files{box}/l", headers=ada)
    assert (followed.status_code, followed.text.split(":")[0]) == (400, "InvalidArgument")
    for target in ("http://elsewhere/x", "file://host/x", "file:relative", "vos://other~space/x"):
        answer = await client.put(f"/nodes{box}/m", content=document("LinkNode", target=target), headers=ada)
        assert (answer.status_code, "link to external resource" in answer.text) == (400, True)


async def test_links_have_no_properties(client, ada, bob, box, document, root):
    target = f"{ROOT}{box}/f"
    titled = document("LinkNode", target=target, properties={f"{CORE}title": "t"})
    assert (await client.put(f"/nodes{box}/l", content=titled, headers=ada)).status_code == 400
    assert not (root / box[1:] / "l").is_symlink()
    plain = document("LinkNode", target=target, properties={f"{CORE}ispublic": "true"})
    assert (await client.put(f"/nodes{box}/l", content=plain, headers=ada)).status_code == 201
    assert (await client.post(f"/nodes{box}/l", content=titled, headers=ada)).status_code == 400
    assert (await client.post(f"/nodes{box}/l", content=plain, headers=ada)).status_code == 200
    moved = document("LinkNode", target=f"{ROOT}{box}/g")
    assert (await client.post(f"/nodes{box}/l", content=moved, headers=ada)).status_code == 400
    public = {f"{CORE}ispublic": "true"}
    await client.post(f"/nodes{box}", content=document("ContainerNode", properties=public), headers=ada)
    assert (await client.post(f"/nodes{box}/l", content=plain, headers=bob)).status_code == 403


@pytest.mark.parametrize(
    ("creator", "status", "uid"),
    [("bob", 201, 10002), ("10002", 201, 10002), ("54321", 400, None), ("no user", 400, None)],
)
async def test_the_admin_names_the_owner(client, document, names, root, creator, status, uid):
    name = names()
    content = document("ContainerNode", properties={f"{CORE}creator": creator})
    answer = await client.put(f"/nodes/{name}", content=content, headers=ADMIN)
    assert answer.status_code == status, answer.text
    if uid is not None:
        assert (root / name).stat().st_uid == uid


@pytest.mark.parametrize("kind", ["DataNode", "LinkNode"])
async def test_the_admin_names_the_owner_of_any_node(client, ada, document, names, root, kind):
    name = names()
    content = document(kind, properties={f"{CORE}creator": "bob"}, target=ROOT)
    answer = await client.put(f"/nodes/{name}", content=content, headers=ADMIN)
    assert answer.status_code == 201, answer.text
    assert '#creator" readOnly="true">bob<' in answer.text
    assert (root / name).lstat().st_uid == 10002


async def test_a_name_that_is_taken_is_a_duplicate_whatever_has_it(client, ada, box, document):
    for name, kind in (("c", "ContainerNode"), ("d", "DataNode"), ("l", "LinkNode")):
        made = await client.put(
            f"/nodes{box}/{name}", content=document(kind, target=f"{ROOT}{box}/d"), headers=ada
        )
        assert made.status_code == 201
    for name in "cdl":
        for kind in ("ContainerNode", "DataNode", "LinkNode"):
            answer = await client.put(
                f"/nodes{box}/{name}", content=document(kind, target=f"{ROOT}{box}/d"), headers=ada
            )
            assert (answer.status_code, answer.text) == (409, f"DuplicateNode: {ROOT}{box}/{name}\n")


async def test_inheritance_is_told_without_groups_too(client, ada, box, document):
    key = "ivo://cadc.nrc.ca/vospace/core#inheritPermissions"
    given = {key: "true", f"{CORE}ispublic": "true"}
    await client.post(f"/nodes{box}", content=document("ContainerNode", properties=given), headers=ada)
    for path, told in ((box, True), (f"{box}/c", True), (f"{box}/private", True), (f"{box}/not", False)):
        if path != box:
            own = {"private": {f"{CORE}ispublic": "false"}, "not": {key: "false"}}.get(
                path.rsplit("/")[-1], {}
            )
            content = document("ContainerNode", properties=own)
            assert (await client.put(f"/nodes{path}", content=content, headers=ada)).status_code == 201
        answer = await client.get(f"/nodes{path}?limit=0", headers=ada)
        assert f'{key}">{"true" if told else "false"}<' in answer.text, path
        public = "false" if path.endswith("private") else "true"
        assert f'ispublic">{public}<' in answer.text, path


@pytest.mark.parametrize(
    "group", ["team", "ivo://opencadc.org/gms", "ivo://opencadc.org/gms?a%20b", "ivo://x?y"]
)
async def test_what_is_no_group_is_refused(client, ada, box, document, group):
    given = document("ContainerNode", properties={f"{CORE}groupread": group})
    answer = await client.post(f"/nodes{box}", content=given, headers=ada)
    assert answer.status_code == 400
    assert answer.text == f"InvalidArgument: {CORE}groupread: not a group: {group}\n"


async def test_others_do_not_name_the_owner(client, ada, document, names, root):
    name = names()
    content = document("ContainerNode", properties={f"{CORE}creator": "bob"})
    assert (await client.put(f"/nodes/{name}", content=content, headers=ada)).status_code == 201
    assert (root / name).stat().st_uid == 10001


@pytest.mark.parametrize("authority", ["opencadc.org~cavern", "opencadc.org!cavern", "cadc.nrc.ca!arc"])
async def test_every_spelling_of_the_authority(client, ada, box, document, authority):
    uri = f"vos://{authority}{box}/{authority[-4:]}"
    name = uri.rsplit("/", 1)[1]
    answer = await client.put(f"/nodes{box}/{name}", content=document("ContainerNode", uri), headers=ada)
    assert answer.status_code == 201, answer.text
    assert etree.fromstring(answer.content).get("uri") == f"{ROOT}{box}/{name}"
    assert (await client.get(f"/nodes{box}?uri={uri}", headers=ada)).status_code == 200


@pytest.mark.parametrize("value", ["9" * 5000, "-9", "1e3", "0x1"])
async def test_numbers_that_are_none(client, ada, box, value):
    await client.put(f"/files{box}/f", content=b"text", headers=ada)
    ranged = ada | {"Range": f"bytes=0-{value}"}
    assert (await client.get(f"/files{box}/f", headers=ranged)).status_code == 200
    document = TRANSFER.format(target=f"{ROOT}{box}/f", direction="pushToVoSpace", core=CORE).replace(
        "</vos:transfer>", f'<vos:param uri="{CORE}length">{value}</vos:param></vos:transfer>'
    )
    answer = await client.post(
        "/synctrans", content=document.encode(), headers=ada | {"Content-Type": "text/xml"}
    )
    assert answer.status_code == 303
    job = answer.headers["location"].removeprefix(BASE).split("/results")[0]
    assert "InvalidArgument" in (await client.get(f"{job}/error", headers=ada)).text
    assert (await client.get(f"/nodes{box}?limit={value}", headers=ada)).status_code in (200, 400)


async def test_conditions(client, ada, box):
    await client.put(f"/files{box}/f", content=b"text", headers=ada)
    head = (await client.head(f"/files{box}/f", headers=ada)).headers

    async def status(**conditions: str) -> int:
        headers = {name.replace("_", "-"): value for name, value in conditions.items()}
        return (await client.get(f"/files{box}/f", headers=ada | headers)).status_code

    assert await status(if_none_match=head["etag"]) == 304
    assert await status(if_none_match="W/" + head["etag"]) == 304
    assert await status(if_none_match='"other"') == 200
    assert await status(if_match=head["etag"]) == 200
    assert await status(if_match="W/" + head["etag"]) == 412
    assert await status(if_match='"other"') == 412
    assert await status(if_modified_since=head["last-modified"]) == 304
    assert await status(if_unmodified_since=head["last-modified"]) == 200
    assert await status(if_unmodified_since="Mon, 01 Jan 2001 00:00:00 GMT") == 412
    assert await status(if_match=head["etag"], if_unmodified_since="Mon, 01 Jan 2001 00:00:00 GMT") == 200


async def test_the_steps_of_a_negotiation(client, ada, box):
    await client.put(f"/files{box}/f", content=b"text", headers=ada)
    body = TRANSFER.format(target=f"vos://opencadc.org!cavern{box}/f", direction="pullFromVoSpace", core=CORE)
    first = await client.post("/synctrans", content=body, headers=ada | {"Content-Type": "text/xml"})
    job = first.headers["location"].removesuffix("/results/transferDetails")
    assert (first.status_code, job.startswith(f"{BASE}/transfers/")) == (303, True)
    second = await client.get(first.headers["location"].removeprefix(BASE), headers=ada)
    assert (second.status_code, second.headers["location"]) == (
        303,
        job.replace("/transfers/", "/xfer/"),
    )
    third = await client.get(second.headers["location"].removeprefix(BASE), headers=ada)
    assert (third.status_code, third.headers["content-type"]) == (200, "text/xml")
    assert etree.fromstring(third.content).findtext(f".//{VOS}endpoint") == f"{BASE}/files{box}/f"
    phase = await client.get(f"{job.removeprefix(BASE)}/phase", headers=ada)
    assert (phase.text, phase.headers["content-type"]) == ("EXECUTING", "text/plain")
    direct = await client.get(
        "/synctrans",
        params={"target": f"{ROOT}{box}/f", "direction": "pullFromVoSpace", "protocol": f"{CORE}httpsget"},
        headers=ada,
    )
    assert direct.status_code == 303
    assert f"{box}/f" in direct.headers["location"]


async def test_a_failed_negotiation_ends_in_a_document_without_protocols(client, ada, box):
    body = TRANSFER.format(target=f"{ROOT}{box}/none", direction="pullFromVoSpace", core=CORE)
    first = await client.post("/synctrans", content=body, headers=ada | {"Content-Type": "text/xml"})
    job = first.headers["location"].removesuffix("/results/transferDetails").removeprefix(BASE)
    details = await client.get(job.replace("/transfers/", "/xfer/"), headers=ada)
    assert details.status_code == 200
    assert etree.fromstring(details.content).find(f"{VOS}protocol") is None
    assert (await client.get(f"{job}/phase", headers=ada)).text == "ERROR"
    assert (await client.get(f"{job}/error", headers=ada)).text == "NodeNotFound"


async def test_uris_of_documents_are_this_service(settings: Settings, client: httpx.AsyncClient) -> None:
    root = etree.fromstring((await client.get("/nodes?limit=0")).content)
    assert root.get("uri") == ROOT
    assert root.get(f"{XSI}type") == "vos:ContainerNode"
    assert root.nsmap["vos"] == VOS.strip("{}")
    assert settings.vospace_aliases == ["ivo://cadc.nrc.ca/arc"]


async def test_the_api_is_shown_without_other_sites(client):
    shown = await shown_api(client, httpx.URL(f"{BASE}/docs"))
    assert "/src/cavern/availability" in shown["paths"]
