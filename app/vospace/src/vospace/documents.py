"""Node documents (VOSpace 2.1 section 3.1; namespace `http://www.ivoa.net/xml/VOSpace/v2.0`) as Cavern reads and writes
them: prefix `vos`, properties in the order of their URIs, dates in UTC without a zone letter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

from lxml import etree
from vospace_client.terms import (
    ADLER32,
    AVAILABLE_SPACE,
    CONTENT_DATE,
    CORE,
    CREATOR,
    DATE,
    GROUP_READ,
    GROUP_WRITE,
    INHERIT,
    LENGTH,
    LOCKED,
    MD5,
    PUBLIC,
    QUOTA,
    READABLE,
    VOS,
    WRITABLE,
    XSI,
)

from vospace.models.errors import InvalidArgument, RequestTooLarge, TypeNotSupported
from vospace.models.node import Node
from vospace.models.uri import XML_SPACE, Naming
from vospace.parsing import children, parse, text_of, uri_of
from vospace.storage.attributes import STAMP

MAX_DOCUMENT = 32 << 10
"""Bytes; Cavern's limit."""

READ_ONLY = frozenset(
    {
        LENGTH,
        DATE,
        MD5,
        CREATOR,
        QUOTA,
        READABLE,
        WRITABLE,
        ADLER32,
        STAMP,
        CONTENT_DATE,
        AVAILABLE_SPACE,
    }
)
_STANDARD = frozenset(
    f"{CORE}{name}"
    for name in [
        "type",
        "encoding",
        "title",
        "subject",
        "description",
        "publisher",
        "contributor",
        "format",
        "identifier",
        "source",
        "language",
        "relation",
        "coverage",
        "rights",
        "runid",
    ]
)
_KINDS = {
    "ContainerNode": "ContainerNode",
    "DataNode": "DataNode",
    "StructuredDataNode": "DataNode",
    "UnstructuredDataNode": "DataNode",
    "LinkNode": "LinkNode",
}
_OF_DATA = ("properties", "accepts", "provides", "capabilities")
_CHILDREN = {
    "ContainerNode": (*_OF_DATA, "nodes"),
    "DataNode": _OF_DATA,
    "LinkNode": ("properties", "target"),
}
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SPECIAL = re.compile("[^ !#-%'-;=?-~\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that a document cannot contain, or not unescaped."""


@dataclass(frozen=True, slots=True)
class NodeDocument:
    """A node document of a client. A property of None is to be removed (`xsi:nil`)."""

    kind: str
    uri: str | None
    properties: Mapping[str, str | None] = field(default_factory=dict)
    target: str | None = None


def read_node(content: bytes) -> NodeDocument:
    """Parse and check a node document. `uri` and `nodes` may be missing. Raises InvalidArgument, TypeNotSupported."""
    if len(content) > MAX_DOCUMENT:
        raise RequestTooLarge(f"limit: {MAX_DOCUMENT}")
    if not content.strip():
        raise InvalidArgument("no node document")
    root = parse(content, "node")
    kind = (root.get(f"{{{XSI}}}type") or "").rpartition(":")[2]
    if not kind:
        raise InvalidArgument("invalid input: element node lacks attribute xsi:type")
    if kind not in _KINDS:
        raise TypeNotSupported(f"invalid input: xsi:type {kind[:60]!r}")
    found = children(root, _CHILDREN[_KINDS[kind]])
    properties = _properties(found["properties"][0]) if found["properties"] else {}
    target = text_of(found["target"][0]) if found.get("target") else None
    if _KINDS[kind] == "LinkNode" and not target:
        raise InvalidArgument("invalid input: a LinkNode needs element target")
    return NodeDocument(_KINDS[kind], (root.get("uri") or "").strip(XML_SPACE) or None, properties, target)


def _properties(parent: etree._Element) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for element in children(parent, ("property",), ("property",))["property"]:
        removed = element.get(f"{{{XSI}}}nil") in ("true", "1")
        found[uri_of(element)] = None if removed else text_of(element)
    return found


def check_key(key: str) -> None:
    """Raises InvalidArgument for a property that cannot be."""
    if key.startswith("ivo://ivoa.net/vospace") and key not in _STANDARD:
        raise InvalidArgument(f"unrecognized property {key[:120]}")
    if len(key.encode()) > 240 or _NOT_XML.search(key) or "\x00" in key:
        raise InvalidArgument(f"property key {key[:80]!r} cannot be stored: too long, or unprintable")


@dataclass(frozen=True, slots=True)
class Names:
    """Names of owners by uid, and of groups by gid."""

    users: Mapping[int, str]
    groups: Mapping[int, str]


class NodeWriter:
    """Writes nodes in the detail that was asked for: `min`, `properties` or `max`."""

    def __init__(self, naming: Naming, detail: str) -> None:
        self._naming = naming
        self._detail = detail

    def opening(self, node: Node, names: Names) -> str:
        """The document up to the children of a container, or the whole of any other node."""
        head = '<?xml version="1.0" encoding="UTF-8"?>\n'
        return head + self._node(node, names, "", root=True)

    def child(self, node: Node, names: Names) -> str:
        return self._node(node, names, "    ", root=False)

    def closing(self, node: Node) -> str:
        return "  </vos:nodes>\n</vos:node>\n" if node.kind == "ContainerNode" else ""

    def _node(self, node: Node, names: Names, indent: str, *, root: bool) -> str:
        spaces = f' xmlns:vos="{VOS}" xmlns:xsi="{XSI}"' if root else ""
        busy = ' busy="false"' if node.kind == "DataNode" and self._detail != "min" else ""
        lines = [
            f'{indent}<vos:node{spaces} uri={_attribute(self._naming.uri(node.path))} xsi:type="vos:{node.kind}"{busy}>'
        ]
        lines.append(self._properties(node, names, indent))
        if node.kind == "LinkNode":
            lines.append(f"{indent}  <vos:target>{_text(target_of(self._naming, node))}</vos:target>")
        elif node.kind == "DataNode":
            lines += [f"{indent}  <vos:accepts/>", f"{indent}  <vos:provides/>"]
        elif root:
            lines.append(f"{indent}  <vos:nodes>")
            return "\n".join(lines) + "\n"
        else:
            lines.append(f"{indent}  <vos:nodes/>")
        lines.append(f"{indent}</vos:node>")
        return "\n".join(lines) + "\n"

    def _properties(self, node: Node, names: Names, indent: str) -> str:
        if self._detail == "min":
            return f"{indent}  <vos:properties/>"
        values = properties_of(node, names, readable=self._detail == "max")
        lines = [f"{indent}  <vos:properties>"]
        lines += [
            f"{indent}    {_property(uri)}{_text(value)}</vos:property>"
            for uri, value in sorted(values.items())
        ]
        lines.append(f"{indent}  </vos:properties>")
        return "\n".join(lines)


def target_of(naming: Naming, node: Node) -> str:
    """The URI of a link's target."""
    if isinstance(node.target, tuple):
        return naming.uri(node.target)
    return "file://" + quote(str(node.target), safe="/!$&'()*+,;=:@~-._", errors="replace")


def properties_of(node: Node, names: Names, *, readable: bool) -> dict[str, str]:
    """All properties that a client sees, stored ones and those that the file system knows."""
    values = {key: value for key, value in node.properties.items() if key != LOCKED or value == "true"}
    if node.kind == "DataNode":
        values[LENGTH] = str(node.length)
    values[DATE] = _date(node.modified_ns)
    values[CREATOR] = names.users.get(node.uid, str(node.uid))
    values[PUBLIC] = "true" if node.public else "false"
    if node.read_gids:
        values[GROUP_READ] = _groups(node.read_gids, names)
    if node.write_gids:
        values[GROUP_WRITE] = _groups(node.write_gids, names)
    if node.kind == "ContainerNode":
        values[INHERIT] = "true" if node.inherits else "false"
    if readable:
        if node.readable:
            values[READABLE] = "true"
        if node.writable:
            values[WRITABLE] = "true"
    return values


def ids_in(nodes: Iterable[Node]) -> tuple[set[int], set[int]]:
    """Return the uids and gids whose names are needed to write the nodes."""
    uids: set[int] = set()
    gids: set[int] = set()
    for node in nodes:
        uids.add(node.uid)
        gids |= node.read_gids | node.write_gids
    return uids, gids


def _groups(gids: frozenset[int], names: Names) -> str:
    return " ".join(sorted(names.groups[gid] for gid in gids if gid in names.groups))


def _date(nanoseconds: int) -> str:
    return f"{_second(nanoseconds // 10**9)}.{nanoseconds // 10**6 % 1000:03d}"


@lru_cache(4096)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(4096)
def _property(uri: str) -> str:
    """The start of an element; the same few URIs come again with every node."""
    flag = ' readOnly="true"' if uri in READ_ONLY else ""
    return f"<vos:property uri={_attribute(uri)}{flag}>"


def _attribute(value: str) -> str:
    if not _SPECIAL.search(value):
        return f'"{value}"'
    return quoteattr(_NOT_XML.sub("\ufffd", value))


def _text(value: str) -> str:
    if not _SPECIAL.search(value):
        return value
    return escape(_NOT_XML.sub("\ufffd", value), {"\r": "&#13;"})
