"""Answers with the content types that OpenCADC's services give: no parameter `charset` behind `text/xml` or
`text/plain`, which some clients compare as a whole."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi.responses import Response


def xml(content: bytes, status: int = 200) -> Response:
    """A document; its encoding is in its declaration."""
    return Response(content, status, {"Content-Type": "text/xml"})


def text(content: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Plain text. A word beyond ASCII is the one case in which the encoding has to be told."""
    kind = "text/plain" if content.isascii() else "text/plain; charset=utf-8"
    return Response(content, status, {"Content-Type": kind, **(headers or {})})
