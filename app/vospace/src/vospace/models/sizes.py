"""Sizes as clients and properties write them."""


def byte_count(text: str) -> int | None:
    """A number of bytes as clients and properties write it, None for anything else or beyond 64 bits."""
    return int(text) if text.isdecimal() and text.isascii() and len(text) <= 18 else None
