"""Names in URIs: encoded once where a URI is written, decoded once where it is read."""

from __future__ import annotations

import re

_UNSAFE = re.compile(r"""[\x00-\x20"#%<>?\[\\\]^`{|}\x7f]""")


def encode_node_path(path: str) -> str:
    """Return a path as a ``vos:`` URI has it: what RFC 3986 allows in no path is percent-encoded.

    Letters of any script stay: OpenCADC's services compare URIs as they are spelled, and write these so.
    """
    return _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", path) if _UNSAFE.search(path) else path
