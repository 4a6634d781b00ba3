"""Documents as clients write them, read back; and phases as clients wait for them."""

from __future__ import annotations

from lxml import etree
from vospace_client.documents import (
    job_phase,
    job_result,
    node_document,
    parse,
    read_capabilities,
    read_children,
    read_node,
    transfer_document,
)
from vospace_client.terms import (
    ADLER32,
    BULK_PULL,
    GROUP_READ,
    HTTPS_GET,
    INHERIT,
    LENGTH,
    MD5,
    PULL_TO,
    QUOTA,
    UNFINISHED_PHASES,
    VOS,
    ExecutionPhase,
)

URI = 'vos://example.org~cavern/home/ada/a"<&b'


def test_nodes_are_read_as_they_were_written() -> None:
    properties = {
        f'{GROUP_READ}"': "<&>",
        INHERIT: "true",
        GROUP_READ: "ivo://a/gms?b",
        QUOTA: "10",
        LENGTH: "4",
    }
    node = read_node(node_document("ContainerNode", URI, properties))
    assert (node.kind, node.properties) == ("ContainerNode", properties)
    assert node.inherited == {GROUP_READ: "ivo://a/gms?b"}
    assert node.quota_left == 6


def test_a_node_without_name_and_properties() -> None:
    assert read_node(node_document("ContainerNode")).properties == {}
    assert parse(node_document("ContainerNode")).get("uri") is None


def test_content_of_a_file() -> None:
    node = read_node(node_document("DataNode", URI, {LENGTH: "0", MD5: "md5:" + "A" * 32}))
    assert (node.content.size, node.content.md5, node.content.adler32) == (0, "a" * 32, None)
    assert node.quota_left is None


def test_children_by_name() -> None:
    child = node_document("DataNode", "vos://example.org~cavern/home/a%20b", {LENGTH: "1"}).decode()
    whole = (
        node_document("ContainerNode", URI, {})
        .decode()
        .replace("<vos:nodes/>", f"<vos:nodes>{child}</vos:nodes>")
    )
    assert {name: node.number(LENGTH) for name, node in read_children(whole.encode()).items()} == {"a b": 1}


def test_transfers_say_what_is_known() -> None:
    document = transfer_document(
        URI, PULL_TO, [(HTTPS_GET, "https://rse/?a&b")], params={LENGTH: 3, ADLER32: None}
    )
    root = etree.fromstring(document)
    assert [(child.tag.removeprefix(f"{{{VOS}}}"), child.text) for child in root] == [
        ("target", URI), ("direction", PULL_TO), ("protocol", None), ("param", "3"),
    ]  # fmt: skip
    assert root.findtext(f".//{{{VOS}}}endpoint") == "https://rse/?a&b"
    moved = parse(transfer_document(URI, URI, keep_bytes=False))
    assert moved.findtext(f"{{{VOS}}}keepBytes") == "false"


def test_jobs() -> None:
    job = parse(
        b'<j xmlns:x="http://www.w3.org/1999/xlink"><phase> HELD </phase><result id="a" x:href="u"/></j>'
    )
    assert job_phase(job) == "HELD"
    assert job_result(job, "a") == ["u"]
    assert job_phase(parse(b"<job/>")) == "UNKNOWN"
    assert {str(phase) for phase in UNFINISHED_PHASES} == {
        "PENDING", "QUEUED", "EXECUTING", "UNKNOWN", "HELD", "SUSPENDED",
    }  # fmt: skip
    assert ExecutionPhase.QUEUED.active
    assert not ExecutionPhase.HELD.active


def test_capabilities() -> None:
    listed = f'<c><capability standardID="{BULK_PULL}"><i><accessURL> u </accessURL></i></capability></c>'
    assert read_capabilities(listed.encode()) == {BULK_PULL: "u"}
