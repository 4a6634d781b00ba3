"""VOSI documents: availability 1.0 and capabilities 1.0 (VOSI 1.1, sections 2 and 5)."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal

from lxml import etree

AVAILABILITY = "http://www.ivoa.net/xml/VOSIAvailability/v1.0"
CAPABILITIES = "http://www.ivoa.net/xml/VOSICapabilities/v1.0"
DATA_SERVICE = "http://www.ivoa.net/xml/VODataService/v1.1"
XSI = "http://www.w3.org/2001/XMLSchema-instance"

ANONYMOUS = ""
TOKEN = "ivo://ivoa.net/sso#token"  # noqa: S105 - an identifier of the SSO standard
CERTIFICATE = "ivo://ivoa.net/sso#tls-with-certificate"


@dataclass(frozen=True)
class Capability:
    """One capability of a service: which standard, where, and how a caller may authenticate."""

    standard_id: str
    url: str
    use: Literal["full", "base"] = "full"
    methods: tuple[str, ...] = (ANONYMOUS, TOKEN)


def availability(available: bool, note: str, client: str = "") -> bytes:
    """Render an availability document; the address of the *client* is in a comment, as OpenCADC's services have it."""
    root = etree.Element(f"{{{AVAILABILITY}}}availability", nsmap={"vosi": AVAILABILITY})
    etree.SubElement(root, f"{{{AVAILABILITY}}}available").text = "true" if available else "false"
    etree.SubElement(root, f"{{{AVAILABILITY}}}note").text = note
    with suppress(ValueError):
        root.append(etree.Comment(f"<clientip>{ip_address(client)}</clientip>"))
    return bytes(etree.tostring(root, xml_declaration=True, encoding="UTF-8", pretty_print=True))


def capabilities(entries: list[Capability]) -> bytes:
    """Render a capabilities document; clients look for the prefixes ``vs`` and ``xsi`` on its root."""
    namespaces = {"vosi": CAPABILITIES, "vs": DATA_SERVICE, "xsi": XSI}
    root = etree.Element(f"{{{CAPABILITIES}}}capabilities", nsmap=namespaces)
    for entry in entries:
        capability = etree.SubElement(root, "capability", standardID=entry.standard_id)
        interface = etree.SubElement(
            capability, "interface", {f"{{{XSI}}}type": "vs:ParamHTTP", "role": "std"}
        )
        etree.SubElement(interface, "accessURL", use=entry.use).text = entry.url
        for method in sorted(entry.methods, key=bool):
            attributes = {"standardID": method} if method else {}
            etree.SubElement(interface, "securityMethod", attributes)
    return bytes(etree.tostring(root, xml_declaration=True, encoding="UTF-8", pretty_print=True))
