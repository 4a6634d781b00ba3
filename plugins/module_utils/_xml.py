# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parse the XML documents that services answer with. Private to the collection."""

from __future__ import annotations

from xml.etree import ElementTree


class XMLError(ValueError):
    """The bytes are not an acceptable XML document."""


def parse(document: bytes) -> ElementTree.Element:
    """Return the root element. Raises XMLError, also for a document type declaration, which attacks rely on."""
    if b"<!DOCTYPE" in document or b"<!\0D" in document or b"\0<\0!" in document:
        raise XMLError("a document type declaration is not allowed")
    try:
        return ElementTree.fromstring(document)  # noqa: S314 - no entities without a document type declaration
    except ElementTree.ParseError as error:
        raise XMLError(f"not well-formed XML: {error}") from error
