"""Responses with the content types of OpenCADC's services: without the parameter `charset`, since some clients compare
`text/xml` and `text/plain` literally."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi.responses import Response


def xml(content: bytes, status: int = 200) -> Response:
    """Return an XML document, whose declaration states its encoding."""
    return Response(content, status, {"Content-Type": "text/xml"})


def text(content: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return plain text; the encoding is stated only if it is not ASCII."""
    kind = "text/plain" if content.isascii() else "text/plain; charset=utf-8"
    return Response(content, status, {"Content-Type": kind, **(headers or {})})
