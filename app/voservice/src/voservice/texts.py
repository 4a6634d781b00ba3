"""Texts that others wrote, made fit to be stored and shown."""

from __future__ import annotations

import re

# Control characters, halves of characters (bytes that are no UTF-8 arrive as such), and what XML cannot say.
_ILLEGIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def legible(text: str) -> str:
    """Return *text* with a replacement character for each that a database, XML or a terminal cannot take."""
    return _ILLEGIBLE.sub("\ufffd", text)
