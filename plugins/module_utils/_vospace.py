# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes of a VOSpace (VOSpace 2.1 sections 3.1 and 6.2 to 6.4). Private to the collection."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlencode, urljoin, urlsplit
from xml.etree import ElementTree

from ansible_collections.skasrc.cavern.plugins.module_utils import _http, _xml

VOS = "http://www.ivoa.net/xml/VOSpace/v2.0"
XSI = "http://www.w3.org/2001/XMLSchema-instance"
CORE = "ivo://ivoa.net/vospace/core#"
INHERIT = "ivo://cadc.nrc.ca/vospace/core#inheritPermissions"

PUBLIC, READERS, WRITERS = f"{CORE}ispublic", f"{CORE}groupread", f"{CORE}groupwrite"
QUOTA, CREATOR = f"{CORE}quota", f"{CORE}creator"

KINDS = ("ContainerNode", "DataNode", "LinkNode")
# The structured kinds of data node are data nodes to whoever manages them.
_KNOWN = {"StructuredDataNode": "DataNode", "UnstructuredDataNode": "DataNode"}

ElementTree.register_namespace("vos", VOS)
ElementTree.register_namespace("xsi", XSI)


class NodeError(ValueError):
    """The description of a node is invalid, in the options or in the service's answer."""


@dataclass(frozen=True)
class Node:
    """Node: its kind, its properties by URI, and the target of a link."""

    uri: str
    kind: str
    properties: Mapping[str, str] = field(default_factory=dict)
    target: str | None = None
    children: tuple[str, ...] = ()

    @property
    def owner(self) -> str | None:
        """Return the name of the owner."""
        return self.properties.get(CREATOR)


def check_path(path: str) -> str:
    """Return a path with one leading and no trailing slash. Raises NodeError if it leaves the space or is its root."""
    if any(character < " " or character in "\\?#" for character in path):
        raise NodeError(f"path: {path!r} holds a character that no path may have")
    segments = [segment for segment in path.split("/") if segment]
    if not segments:
        raise NodeError("path: the root node is managed by the service itself")
    for segment in segments:
        if segment in {".", ".."}:
            raise NodeError(f"path: {path!r} must not have the segments '.' and '..'")
    return "/" + "/".join(segments)


def encode(path: str) -> str:
    """Percent-encode a path for a URL or URI (RFC 3986 section 3.3)."""
    return quote(path, safe="/~!$&'()*+,=:@")


def same_uri(one: str | None, other: str | None) -> bool:
    """Whether two URIs name the same node: ``!`` in the authority equals ``~``; percent-encoding is ignored."""
    if one is None or other is None:
        return one is other
    first, second = urlsplit(one), urlsplit(other)
    return (first.scheme, first.netloc.replace("!", "~").lower(), unquote(first.path).rstrip("/")) == (
        second.scheme,
        second.netloc.replace("!", "~").lower(),
        unquote(second.path).rstrip("/"),
    )


def check_property(uri: str) -> None:
    """Refuse an invalid URI of a property. Raises NodeError."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s<>\"]+", uri):
        raise NodeError(f"properties: {uri!r} is no URI such as {CORE}title")


def read_node(document: bytes) -> Node:
    """Read a node document."""
    try:
        root = _xml.parse(document)
    except _xml.XMLError as error:
        raise NodeError(f"no node document: {error}") from error
    if root.tag != f"{{{VOS}}}node":
        raise NodeError(f"no node document: the root element is {root.tag}")
    kind = root.get(f"{{{XSI}}}type", "").rpartition(":")[2]
    kind = _KNOWN.get(kind, kind)
    if kind not in KINDS:
        raise NodeError(f"unknown kind of node: {kind or 'none given'}")
    properties = {
        entry.get("uri", ""): entry.text or ""
        for entry in root.iterfind(f"{{{VOS}}}properties/{{{VOS}}}property")
        if entry.get(f"{{{XSI}}}nil") not in {"true", "1"}
    }
    children = tuple(
        unquote(child.get("uri", "").rpartition("/")[2])
        for child in root.iterfind(f"{{{VOS}}}nodes/{{{VOS}}}node")
    )
    return Node(root.get("uri", ""), kind, properties, root.findtext(f"{{{VOS}}}target"), children)


def write_node(
    uri: str, kind: str, properties: Mapping[str, str | None] | None = None, target: str | None = None
) -> bytes:
    """Return a node document; a property that is None is to be deleted."""
    root = ElementTree.Element(f"{{{VOS}}}node", {"uri": uri, f"{{{XSI}}}type": f"vos:{kind}"})
    listing = ElementTree.SubElement(root, f"{{{VOS}}}properties")
    for name, value in sorted((properties or {}).items()):
        entry = ElementTree.SubElement(listing, f"{{{VOS}}}property", {"uri": name})
        if value is None:
            entry.set(f"{{{XSI}}}nil", "true")
        else:
            entry.text = value
    if kind == "ContainerNode":
        ElementTree.SubElement(root, f"{{{VOS}}}nodes")
    elif kind == "LinkNode":
        ElementTree.SubElement(root, f"{{{VOS}}}target").text = target
    else:
        for name in ("accepts", "provides"):
            ElementTree.SubElement(root, f"{{{VOS}}}{name}")
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document


@dataclass
class Space:
    """Client of one service for the nodes that one user sees."""

    client: _http.Client
    url: str
    _root: str | None = field(default=None, init=False)

    def _node_url(self, path: str) -> str:
        return f"{self.url}/nodes{encode(path)}"

    def root_uri(self) -> str:
        """Return the prefix of all nodes' URIs, as the root node gives it."""
        if self._root is None:
            self._root = self._ask_root()
        return self._root

    def _ask_root(self) -> str:
        answer = self.client.request("GET", f"{self.url}/nodes/?limit=0&detail=min")
        if answer.status != 200:
            raise answer.error()
        return read_node(answer.body).uri.rstrip("/")

    def get(self, path: str, query: str = "limit=0") -> Node | None:
        """Return the node at a path, None if there is none."""
        answer = self.client.request("GET", f"{self._node_url(path)}?{query}")
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise answer.error()
        return read_node(answer.body)

    def is_empty(self, path: str) -> bool:
        """Whether a container is empty."""
        # OpenCADC's Cavern lists all children whatever the limit, unless it is 0.
        node = self.get(path, "limit=1&detail=min")
        return node is None or not node.children

    def _send(self, method: str, path: str, document: bytes, expected: int) -> Node:
        answer = self.client.request(
            method, self._node_url(path), body=document, headers={"Content-Type": "text/xml"}
        )
        if answer.status != expected:
            raise answer.error()
        return read_node(answer.body)

    def create(self, path: str, document: bytes) -> Node:
        """Create a node and return it."""
        return self._send("PUT", path, document, 201)

    def update(self, path: str, document: bytes) -> Node:
        """Change a node's properties and return it."""
        return self._send("POST", path, document, 200)

    def delete(self, path: str) -> None:
        """Delete a node that is not a container, or an empty container."""
        answer = self.client.request("DELETE", self._node_url(path))
        if answer.status not in {200, 204}:
            raise answer.error()

    def delete_all(self, uri: str, timeout: float) -> None:
        """Delete a container recursively, by a job of the service (UWS 1.1 section 2.2).

        The endpoint is that of OpenCADC's Cavern, /async-delete.
        """
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        begun = self.client.request(
            "POST", f"{self.url}/async-delete", body=urlencode({"target": uri}), headers=form
        )
        job = begun.headers.get("location", "")
        if begun.status != 303 or not job:
            raise begun.error()
        job = urljoin(begun.url, job)
        if not job.startswith(f"{self.url}/"):
            raise _http.ServiceError(f"{begun.url} leads to {job}, outside of the service")
        started = self.client.request("POST", f"{job}/phase", body="PHASE=RUN", headers=form)
        if started.status not in {200, 303}:
            raise started.error()
        deadline, pause = time.monotonic() + timeout, 0.05
        while True:
            answer = self.client.request("GET", f"{job}/phase")
            if answer.status != 200:
                raise answer.error()
            phase = answer.body.decode(errors="replace").strip()
            if phase == "COMPLETED":
                return
            if phase not in {"PENDING", "QUEUED", "EXECUTING"}:
                reason = self.client.request("GET", f"{job}/error")
                why = reason.excerpt() if reason.status == 200 else "no reason given"
                raise _http.ServiceError(f"{uri}: the removal ended in phase {phase}: {why}")
            if time.monotonic() > deadline:
                raise _http.ServiceError(
                    f"{uri}: the removal is {phase} after {timeout:g} s; it goes on as {job}"
                )
            time.sleep(pause)
            pause = min(1.0, pause * 1.5)
