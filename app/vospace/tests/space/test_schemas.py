"""Every document that the service writes is valid, and what is not valid is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
import xmlschema
from lxml import etree

SCHEMAS = Path(__file__).parents[1] / "schemas"
CORE = "ivo://ivoa.net/vospace/core#"
ROOT = "vos://opencadc.org~cavern"
XML = {"Content-Type": "text/xml"}
NODE = (
    '<v:node xmlns:v="{namespace}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="v:{kind}">'
    "{content}</v:node>"
)
TRANSFER = (
    '<v:transfer xmlns:v="http://www.ivoa.net/xml/VOSpace/v2.0" version="2.1"><v:target>{target}</v:target>'
    "<v:direction>{direction}</v:direction>{rest}</v:transfer>"
)
PULL = f'<v:protocol uri="{CORE}httpsget"/><v:protocol uri="{CORE}httpget"/>'


@pytest.fixture(scope="module")
def schemas() -> dict[str, xmlschema.XMLSchema]:
    return {path.stem: xmlschema.XMLSchema(path, allow="local") for path in SCHEMAS.glob("*.xsd")}


def valid(schema: xmlschema.XMLSchema, answer: httpx.Response) -> etree._Element:
    assert answer.status_code in (200, 201), answer.text
    root = etree.fromstring(answer.content)
    schema.validate(root)
    return root


async def test_nodes(client, ada, box, document, schemas):
    schema = schemas["VOSpace"]
    await client.put(f"/files{box}/é &<file>", content=b"text", headers=ada)
    given = {f"{CORE}title": "a &lt;title>", "quality": "good"}
    for kind in ("DataNode", "ContainerNode"):
        content = document(kind, properties=given)
        valid(schema, await client.put(f"/nodes{box}/{kind}", content=content, headers=ada))
        valid(schema, await client.post(f"/nodes{box}/{kind}", content=content, headers=ada))
    for name, target in (("in", f"{ROOT}{box}/none"), ("out", "file:///some where/é")):
        link = document("LinkNode", target=target)
        valid(schema, await client.put(f"/nodes{box}/{name}", content=link, headers=ada))
    for query in ("", "?detail=min", "?detail=max", "?limit=0"):
        root = valid(schema, await client.get(f"/nodes{box}{query}", headers=ada))
        assert len(root.find(f"{{{root.nsmap['vos']}}}nodes")) == (0 if "limit" in query else 5)
    valid(schema, await client.get("/nodes"))


async def test_jobs_and_transfers(client, ada, box, schemas):
    await client.put(f"/files{box}/f", content=b"text", headers=ada)
    for target, direction, rest in (
        (f"{box}/f", "pullFromVoSpace", PULL),
        (f"{box}/none", "pullFromVoSpace", PULL),
        (f"{box}/f", f"{ROOT}{box}/g", "<v:keepBytes>false</v:keepBytes>"),
        (f"{box}/none", f"{ROOT}{box}/h", "<v:keepBytes>true</v:keepBytes>"),
    ):
        content = TRANSFER.format(target=ROOT + target, direction=direction, rest=rest)
        schemas["VOSpace"].validate(etree.fromstring(content))
        made = await client.post("/transfers?RUNID=some+run", content=content, headers=ada | XML)
        job = made.headers["location"].removeprefix("http://space/src/cavern")
        valid(schemas["UWS"], await client.get(job, headers=ada))
        await client.post(f"{job}/phase?PHASE=RUN", headers=ada)
        for _ in range(3):
            root = valid(schemas["UWS"], await client.get(f"{job}?WAIT=1", headers=ada))
        assert root.findtext("{*}runId") == "some run"
        for part in ("parameters", "results"):
            valid(schemas["UWS"], await client.get(f"{job}/{part}", headers=ada))
        details = job.replace("/transfers/", "/xfer/")
        valid(schemas["VOSpace"], await client.get(details, headers=ada))
    deletion = await client.post("/async-delete", data={"target": f"{ROOT}{box}/none"}, headers=ada)
    job = deletion.headers["location"].removeprefix("http://space/src/cavern")
    valid(schemas["UWS"], await client.get(job, headers=ada))
    assert len(valid(schemas["UWS"], await client.get("/transfers?LAST=3", headers=ada))) == 3


async def test_vosi(client, schemas):
    valid(schemas["VOSIAvailability"], await client.get("/availability"))
    valid(schemas["VOSICapabilities"], await client.get("/capabilities"))


def nodes(kind: str, content: str, namespace: str = "http://www.ivoa.net/xml/VOSpace/v2.0") -> bytes:
    return NODE.format(kind=kind, content=content, namespace=namespace).encode()


@pytest.mark.parametrize(
    "content",
    [
        nodes("ContainerNode", "<v:nodes/><v:properties/>"),
        nodes("ContainerNode", "<v:properties/><v:properties/><v:nodes/>"),
        nodes("ContainerNode", "<v:target>x</v:target>"),
        nodes("DataNode", "<v:nodes/>"),
        nodes("DataNode", "<v:provides/><v:accepts/>"),
        nodes("LinkNode", f"<v:target>{ROOT}/x</v:target><v:properties/>"),
        nodes("LinkNode", f"<v:target>{ROOT}/x</v:target><v:target>{ROOT}/x</v:target>"),
        nodes("LinkNode", "<v:properties/>"),
        nodes("DataNode", "<v:properties><v:property>x</v:property></v:properties>"),
        nodes("DataNode", "<v:properties><property uri='x:y'>x</property></v:properties>"),
        nodes("DataNode", "<v:properties/>", "http://www.ivoa.net/xml/VOSpace/v9.9"),
    ],
)
async def test_nodes_that_the_schema_refuses(client, ada, box, content, schemas):
    with pytest.raises(xmlschema.XMLSchemaValidationError):
        schemas["VOSpace"].validate(
            etree.fromstring(content.replace(b" xsi:type", f' uri="{ROOT}" xsi:type'.encode()))
        )
    answer = await client.put(f"/nodes{box}/n", content=content, headers=ada)
    assert (answer.status_code, answer.text.split(":")[0]) == (400, "InvalidArgument")
    assert (await client.get(f"/nodes{box}/n", headers=ada)).status_code == 404


@pytest.mark.parametrize("version", ["2.0", "2.1"])
async def test_either_version_is_read(client, ada, box, version):
    content = nodes("ContainerNode", "<v:nodes/>", f"http://www.ivoa.net/xml/VOSpace/v{version}")
    answer = await client.put(f"/nodes{box}/n", content=content, headers=ada)
    assert answer.status_code == 201
    assert etree.fromstring(answer.content).nsmap["vos"].endswith("v2.0")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("<v:direction>pullFromVoSpace</v:direction>", ""),
        lambda text: text.replace(f"<v:target>{ROOT}/x</v:target>", ""),
        lambda text: text.replace("</v:transfer>", "<v:view uri='x:y'/></v:transfer>"),
        lambda text: text.replace(f' uri="{CORE}httpget"', ""),
        lambda text: text.replace("</v:transfer>", "<v:keepBytes>maybe</v:keepBytes></v:transfer>"),
        lambda text: text.replace("</v:transfer>", "<v:other/></v:transfer>"),
    ],
)
async def test_transfers_that_the_schema_refuses(client, ada, change: Any, schemas):
    content = change(TRANSFER.format(target=f"{ROOT}/x", direction="pullFromVoSpace", rest=PULL))
    with pytest.raises(xmlschema.XMLSchemaValidationError):
        schemas["VOSpace"].validate(etree.fromstring(content))
    for path in ("/synctrans", "/transfers"):
        answer = await client.post(path, content=content, headers=ada | XML)
        assert (answer.status_code, answer.text.split(":")[0]) == (400, "InvalidArgument")
