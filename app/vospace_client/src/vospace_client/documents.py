"""Node and transfer documents as clients write and read them (VOSpace 2.1 sections 3.1 and 3.6)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote
from xml.sax.saxutils import escape, quoteattr

from lxml import etree
from voservice.content import Content

from vospace_client.terms import (
    ADLER32,
    GROUP_READ,
    GROUP_WRITE,
    INHERIT,
    LENGTH,
    MD5,
    PUBLIC,
    QUOTA,
    VOS,
    XLINK,
    XSI,
)


@dataclass(frozen=True)
class Node:
    """Kind and properties of a node, the properties by their URIs."""

    kind: str
    """`ContainerNode`, `DataNode` or `LinkNode`."""
    properties: dict[str, str]

    def number(self, uri: str) -> int | None:
        """Value of a numeric property."""
        text = self.properties.get(uri, "")
        return int(text) if text.isdecimal() else None

    @property
    def md5(self) -> str | None:
        """MD5 of a file as 32 hexadecimal digits, if the service states it."""
        return self.properties.get(MD5, "").removeprefix("md5:").lower() or None

    @property
    def content(self) -> Content:
        """Size and checksums of a file, as far as the service states them."""
        return Content(self.number(LENGTH), self.md5, self.properties.get(ADLER32))

    @property
    def inherited(self) -> dict[str, str]:
        """Permissions that new nodes in this container inherit; empty if they inherit none."""
        if self.properties.get(INHERIT) != "true":
            return {}
        found = {uri: value for uri in (GROUP_READ, GROUP_WRITE) if (value := self.properties.get(uri))}
        return found | ({PUBLIC: "true"} if self.properties.get(PUBLIC) == "true" else {})

    @property
    def quota_left(self) -> int | None:
        """Bytes left of an allocation's quota; None without a quota."""
        quota = self.number(QUOTA)
        return None if quota is None else max(quota - (self.number(LENGTH) or 0), 0)


def parse(document: bytes, *, large: bool = False) -> etree._Element:
    """Parse an XML document of a service; *large* lifts the parser's limits. Raises `etree.XMLSyntaxError`."""
    return etree.fromstring(
        document, etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=large)
    )


def node_document(
    kind: str,
    uri: str | None = None,
    properties: Mapping[str, str | None] | None = None,
    target: str | None = None,
) -> bytes:
    """Write a node; properties that are None are to be removed, and *target* is the URI that a link leads to.

    This project's service takes documents without *uri*, OpenCADC's does not.
    """
    entries = "".join(
        f'<vos:property uri={quoteattr(key)} xsi:nil="true"/>'
        if value is None
        else f"<vos:property uri={quoteattr(key)}>{escape(value)}</vos:property>"
        for key, value in (properties or {}).items()
    )
    inside = "<vos:nodes/>" if kind == "ContainerNode" else ""
    if target is not None:
        inside += f"<vos:target>{escape(target)}</vos:target>"
    named = "" if uri is None else f" uri={quoteattr(uri)}"
    return (
        f'<vos:node xmlns:vos="{VOS}" xmlns:xsi="{XSI}" xsi:type="vos:{kind}"{named}>'
        f"<vos:properties>{entries}</vos:properties>{inside}</vos:node>"
    ).encode()


def read_node(document: bytes) -> Node:
    """Read a node without its children."""
    return _node(parse(document))


def read_children(document: bytes) -> dict[str, Node]:
    """Read the children of a container, by name."""
    found = parse(document, large=True).iterfind(f"{{{VOS}}}nodes/{{{VOS}}}node")
    return {unquote(child.get("uri", "").rpartition("/")[2]): _node(child) for child in found}


def _node(element: etree._Element) -> Node:
    listed = element.iterfind(f"{{{VOS}}}properties/{{{VOS}}}property")
    properties = {entry.get("uri", ""): (entry.text or "").strip() for entry in listed}
    return Node(element.get(f"{{{XSI}}}type", "").partition(":")[2], properties)


def transfer_document(
    target: str,
    direction: str,
    protocols: Iterable[tuple[str, str | None]] = (),
    *,
    keep_bytes: bool | None = None,
    params: Mapping[str, object] | None = None,
) -> bytes:
    """Write a transfer of the node *target*.

    *direction* is one of VOSpace's words, or the URI of the destination of a move or copy, which `keep_bytes` tells
    apart. *protocols* are pairs of a protocol's URI and an endpoint; parameters of None are left out.
    """
    parts = [f"<vos:target>{escape(target)}</vos:target><vos:direction>{escape(direction)}</vos:direction>"]
    for uri, endpoint in protocols:
        inside = "" if endpoint is None else f"<vos:endpoint>{escape(endpoint)}</vos:endpoint>"
        parts.append(f"<vos:protocol uri={quoteattr(uri)}>{inside}</vos:protocol>")
    if keep_bytes is not None:
        parts.append(f"<vos:keepBytes>{'true' if keep_bytes else 'false'}</vos:keepBytes>")
    parts += [
        f"<vos:param uri={quoteattr(uri)}>{escape(str(value))}</vos:param>"
        for uri, value in (params or {}).items()
        if value is not None
    ]
    return f'<vos:transfer xmlns:vos="{VOS}" version="2.1">{"".join(parts)}</vos:transfer>'.encode()


def job_phase(job: etree._Element) -> str:
    """Return the phase in a job's document, `UNKNOWN` if it has none."""
    return str(job.findtext("{*}phase") or "UNKNOWN").strip()


def job_result(job: etree._Element, name: str) -> list[str]:
    """Return the references of the results with the id *name* in a job's document."""
    return [
        result.get(f"{{{XLINK}}}href", "") for result in job.iter("{*}result") if result.get("id") == name
    ]


def read_capabilities(document: bytes) -> dict[str, str]:
    """Read a VOSI capabilities document: the first access URL of each standard identifier."""
    return {
        capability.get("standardID", ""): (capability.findtext(".//{*}accessURL") or "").strip()
        for capability in parse(document).iter("{*}capability")
    }
