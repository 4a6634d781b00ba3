"""Untrusted texts, made safe to store and show."""

from __future__ import annotations

import re

# Control characters, surrogates (from bytes that are not UTF-8), and characters that XML does not allow.
_ILLEGIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def legible(text: str) -> str:
    """Return *text* with replacements for characters that a database, XML or a terminal cannot handle."""
    return _ILLEGIBLE.sub("\ufffd", text)
