"""Parsing of untrusted XML: no entities, no network access, nothing that the schema does not allow."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lxml import etree

from vospace.models.errors import InvalidArgument
from vospace.models.uri import XML_SPACE

NAMESPACES = ("http://www.ivoa.net/xml/VOSpace/v2.0", "http://www.ivoa.net/xml/VOSpace/v2.1")
"""Version 2.1 keeps the namespace of 2.0 (VOSpace 2.1 appendix A); some clients use the other one anyway."""


def parse(content: bytes, name: str) -> etree._Element:
    """Return the root element, which must be *name* of a VOSpace namespace. Raises InvalidArgument."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False, remove_comments=True)
    try:
        root = etree.fromstring(content, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise InvalidArgument(f"invalid input: {error}") from None
    if root.getroottree().docinfo.internalDTD is not None:
        raise InvalidArgument("invalid input: a document type declaration is not allowed")
    found = etree.QName(root)
    if found.localname != name or found.namespace not in NAMESPACES:
        raise InvalidArgument(
            f"invalid input: expected element {name} in namespace {NAMESPACES[0]}, found {root.tag}"
        )
    return root


def children(
    parent: etree._Element, allowed: Sequence[str], repeated: Collection[str] = ()
) -> dict[str, list[etree._Element]]:
    """Children by name, all of the parent's namespace and in the order of *allowed*; those of *repeated* may come more
    than once. Raises InvalidArgument."""
    namespace = etree.QName(parent).namespace
    found: dict[str, list[etree._Element]] = {name: [] for name in allowed}
    position = 0
    for child in parent:
        if not isinstance(child.tag, str):
            continue
        name = etree.QName(child)
        if name.namespace != namespace or name.localname not in allowed:
            raise InvalidArgument(f"invalid input: unexpected element {child.tag}")
        index = allowed.index(name.localname)
        if index < position:
            raise InvalidArgument(
                f"invalid input: element {name.localname} must come before {allowed[position]}"
            )
        position = index
        if found[name.localname] and name.localname not in repeated:
            raise InvalidArgument(f"invalid input: more than one element {name.localname}")
        found[name.localname].append(child)
    return found


def text_of(element: etree._Element) -> str:
    return (element.text or "").strip(XML_SPACE)


def uri_of(element: etree._Element) -> str:
    """Return the attribute `uri`. Raises InvalidArgument."""
    value = (element.get("uri") or "").strip(XML_SPACE)
    if not value:
        raise InvalidArgument(f"invalid input: element {etree.QName(element).localname} lacks attribute uri")
    return value
