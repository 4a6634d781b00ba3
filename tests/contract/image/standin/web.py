"""What the three services have in common on the wire: faults, VOSI documents, PostgreSQL."""

from __future__ import annotations

from typing import Any

import asyncpg
from lxml import etree
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

VOSI_AVAILABILITY = "http://www.ivoa.net/xml/VOSIAvailability/v1.0"
VOSI_CAPABILITIES = "http://www.ivoa.net/xml/VOSICapabilities/v1.0"
XSI = "http://www.w3.org/2001/XMLSchema-instance"
VS = "http://www.ivoa.net/xml/VODataService/v1.1"
TOKEN = "ivo://ivoa.net/sso#token"


class Fault(Exception):
    """An answer that is no success: one line of plain text."""

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, headers or {}


async def answer_fault(_request: Request, fault: Exception) -> Response:
    """Errors are never XML."""
    if isinstance(fault, Fault):
        return PlainTextResponse(f"{fault.text}\n", fault.status, fault.headers)
    return PlainTextResponse(f"unexpected exception: {type(fault).__name__}: {fault}\n", 500)


def availability(good: bool, note: str) -> Response:
    """VOSI availability: status 200 whatever it says."""
    return Response(
        f'<?xml version="1.0" encoding="UTF-8"?>\n<vosi:availability xmlns:vosi="{VOSI_AVAILABILITY}">'
        f"<vosi:available>{str(good).lower()}</vosi:available><vosi:note>{note}</vosi:note></vosi:availability>\n",
        media_type="text/xml",
        headers={"Content-Type": "text/xml"},
    )


def capabilities(url: str, endpoints: dict[str, tuple[str, bool]]) -> Response:
    """VOSI capabilities: by standard identifier the path, and whether callers may show a token."""
    root = etree.Element(
        f"{{{VOSI_CAPABILITIES}}}capabilities", nsmap={"vosi": VOSI_CAPABILITIES, "vs": VS, "xsi": XSI}
    )
    for standard, (path, tokens) in endpoints.items():
        capability = etree.SubElement(root, "capability", standardID=standard)
        interface = etree.SubElement(
            capability, "interface", {f"{{{XSI}}}type": "vs:ParamHTTP", "role": "std"}
        )
        etree.SubElement(interface, "accessURL", use="full").text = url + path
        etree.SubElement(interface, "securityMethod")
        if tokens:
            etree.SubElement(interface, "securityMethod", standardID=TOKEN)
    return Response(etree.tostring(root, xml_declaration=True, encoding="UTF-8"), media_type="text/xml")


async def connect(pool: dict[str, str]) -> Any:
    """A connection of a service's pool."""
    driver: Any = asyncpg
    return await driver.connect(pool["dsn"], user=pool["user"], password=pool["password"], timeout=20)


async def own_schema(connection: Any, schema: str) -> None:
    """A schema is never made by a service, and its tables and grants only in one that its account owns."""
    owner = await connection.fetchval(
        "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = $1", schema
    )
    if owner is None:
        raise RuntimeError(f'schema "{schema}" does not exist')
    await connection.execute(f'GRANT USAGE ON SCHEMA "{schema}" TO PUBLIC')
    granted = await connection.fetchval("SELECT has_schema_privilege('public', $1, 'USAGE')", schema)
    if not granted:
        raise RuntimeError(f'schema "{schema}" belongs to {owner}: no right to grant on it')
