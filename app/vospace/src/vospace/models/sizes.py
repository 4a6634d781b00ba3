"""Sizes as clients and properties write them."""


def byte_count(text: str) -> int | None:
    """Return a number of bytes from its text, None for anything else or beyond 64 bits."""
    return int(text) if text.isdecimal() and text.isascii() and len(text) <= 18 else None
