"""VOSI availability 1.0 and capabilities 1.0 (VOSI 1.1, sections 2 and 5): documents, and the routes that give them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from lxml import etree

from voservice.proxy import client_address
from voservice.responses import xml

AVAILABILITY = "http://www.ivoa.net/xml/VOSIAvailability/v1.0"
CAPABILITIES = "http://www.ivoa.net/xml/VOSICapabilities/v1.0"
DATA_SERVICE = "http://www.ivoa.net/xml/VODataService/v1.1"
XSI = "http://www.w3.org/2001/XMLSchema-instance"

ANONYMOUS = ""
AVAILABILITY_ID = "ivo://ivoa.net/std/VOSI#availability"
CAPABILITIES_ID = "ivo://ivoa.net/std/VOSI#capabilities"
TOKEN = "ivo://ivoa.net/sso#token"  # noqa: S105 - an identifier of the SSO standard
CERTIFICATE = "ivo://ivoa.net/sso#tls-with-certificate"
CHECK_SECONDS = 5
"""Seconds after which a dependency of a service counts as unavailable."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Capability:
    """One capability of a service: standard, URL and ways to authenticate."""

    standard_id: str
    url: str
    use: Literal["full", "base"] = "full"
    methods: tuple[str, ...] = (ANONYMOUS, TOKEN)


def availability(available: bool, note: str, client: str = "") -> bytes:
    """Render an availability document; a comment contains the address of the *client*, as in OpenCADC's services."""
    root = etree.Element(f"{{{AVAILABILITY}}}availability", nsmap={"vosi": AVAILABILITY})
    etree.SubElement(root, f"{{{AVAILABILITY}}}available").text = "true" if available else "false"
    etree.SubElement(root, f"{{{AVAILABILITY}}}note").text = note
    with suppress(ValueError):
        root.append(etree.Comment(f"<clientip>{ip_address(client)}</clientip>"))
    return bytes(etree.tostring(root, xml_declaration=True, encoding="UTF-8", pretty_print=True))


def capabilities(entries: list[Capability]) -> bytes:
    """Render a capabilities document; clients expect the prefixes ``vs`` and ``xsi`` on its root."""
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


def own_capabilities(url: str) -> list[Capability]:
    """Capabilities of the routes of `router` at *url*."""
    return [
        Capability(AVAILABILITY_ID, f"{url}/availability", methods=(ANONYMOUS,)),
        Capability(CAPABILITIES_ID, f"{url}/capabilities", methods=(ANONYMOUS,)),
    ]


def router(
    entries: list[Capability],
    *,
    ready: Callable[[], Awaitable[object]] | None = None,
    unready: str = "not ready",
    note: str = "service is accepting requests",
    state: Callable[[], tuple[bool, str]] | None = None,
) -> APIRouter:
    """Routes ``/capabilities`` and ``/availability`` of a service with the capabilities *entries*.

    *ready* raises if a dependency of the service is unavailable; the note then begins with *unready*. *state* returns
    whether the service accepts requests, and its note, if operators can change that. With ``detail=min`` the response
    is only a status, a liveness check that ignores maintenance: a supervisor must not restart the service then.
    """
    routes = APIRouter(tags=["VOSI"])

    @routes.head("/capabilities", include_in_schema=False)
    @routes.get("/capabilities", summary="What the service offers and where")
    async def get_capabilities() -> Response:
        return xml(capabilities(entries))

    @routes.head("/availability", include_in_schema=False)
    @routes.get("/availability", summary="Whether the service and what it needs answer")
    async def get_availability(request: Request) -> Response:
        alive, (open_, reported) = True, (True, note) if state is None else state()
        if ready is not None:
            try:
                async with asyncio.timeout(CHECK_SECONDS):
                    await ready()
            except Exception as exc:  # any error makes it unavailable
                logger.warning("%s: %s", unready, exc)
                alive, reported = False, f"{unready}: {type(exc).__name__}"
        if {key.lower(): value for key, value in request.query_params.items()}.get("detail") == "min":
            return Response(status_code=200 if alive else 503)
        return xml(availability(alive and open_, reported, client_address(request)))

    return routes
