"""What the three services have in common on the wire: faults, VOSI documents, PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from lxml import etree
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

VOSI_AVAILABILITY = "http://www.ivoa.net/xml/VOSIAvailability/v1.0"
VOSI_CAPABILITIES = "http://www.ivoa.net/xml/VOSICapabilities/v1.0"
XSI = "http://www.w3.org/2001/XMLSchema-instance"
VS = "http://www.ivoa.net/xml/VODataService/v1.1"
TOKEN = "ivo://ivoa.net/sso#token"
VOS = "http://www.ivoa.net/xml/VOSpace/v2.0"
XML = "text/xml"
# Security methods of a capability; None is that of whoever shows nothing.
ANONYMOUS: tuple[str | None, ...] = (None,)
TOKENS: tuple[str | None, ...] = (TOKEN,)
BOTH = ANONYMOUS + TOKENS
SCHEMA = Path("/opt/standin/schemas/VOSpace.xsd")


class Named(Protocol):
    """A caller with a name."""

    @property
    def name(self) -> str | None:
        """The user's name, if the token has one."""


class Fault(Exception):
    """An answer that is no success: one line of plain text."""

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, headers or {}


async def answer_fault(_request: Request, fault: Exception) -> Response:
    """Errors are never XML."""
    if isinstance(fault, Fault):
        return PlainTextResponse(f"{fault.text}\n", fault.status, fault.headers)
    name = "java.lang.RuntimeException" if isinstance(fault, RuntimeError) else type(fault).__name__
    return PlainTextResponse(f"unexpected exception: {name}: {fault}\n", 500)


def availability(good: bool, note: str) -> Response:
    """VOSI availability: status 200 whatever it says."""
    return Response(
        f'<?xml version="1.0" encoding="UTF-8"?>\n<vosi:availability xmlns:vosi="{VOSI_AVAILABILITY}">'
        f"<vosi:available>{str(good).lower()}</vosi:available><vosi:note>{note}</vosi:note></vosi:availability>\n",
        media_type="text/xml",
        headers={"Content-Type": "text/xml"},
    )


def capabilities(url: str, endpoints: dict[str, tuple[str, str, tuple[str | None, ...]]]) -> Response:
    """VOSI capabilities: by standard identifier the path, how its URL is used, and the security methods."""
    root = etree.Element(
        f"{{{VOSI_CAPABILITIES}}}capabilities", nsmap={"vosi": VOSI_CAPABILITIES, "vs": VS, "xsi": XSI}
    )
    for standard, (path, use, methods) in endpoints.items():
        capability = etree.SubElement(root, "capability", standardID=standard)
        interface = etree.SubElement(
            capability, "interface", {f"{{{XSI}}}type": "vs:ParamHTTP", "role": "std"}
        )
        etree.SubElement(interface, "accessURL", use=use).text = url + path
        for method in methods:
            etree.SubElement(interface, "securityMethod", {"standardID": method} if method else {})
    return Response(etree.tostring(root, xml_declaration=True, encoding="UTF-8"), media_type="text/xml")


def shown(caller: Named | None) -> dict[str, str]:
    """Who the service took the caller for, on every answer."""
    if caller is None:
        return {"WWW-Authenticate": "Bearer"}
    return {"x-vo-authenticated": caller.name or ""}


def valid(document: bytes, element: str) -> etree._Element:
    """A document that the VOSpace schema allows."""
    try:
        root = etree.fromstring(document, etree.XMLParser(resolve_entities=False, no_network=True))
    except etree.XMLSyntaxError as error:
        raise Fault(400, f"InvalidArgument: invalid input: {error}") from error
    schema = etree.XMLSchema(etree.parse(SCHEMA))
    if root.tag != f"{{{VOS}}}{element}" or not schema.validate(root):
        raise Fault(
            400,
            f"InvalidArgument: invalid input: XML failed schema validation: {schema.error_log}",
        )
    return root
