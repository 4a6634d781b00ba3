"""Names in URIs: encoded once when a URI is written, decoded once when it is read."""

from __future__ import annotations

import re

_UNSAFE = re.compile(r"""[\x00-\x20"#%<>?\[\\\]^`{|}\x7f]""")


def encode_node_path(path: str) -> str:
    """Return a path for a ``vos:`` URI: characters that RFC 3986 forbids in paths are percent-encoded.

    Letters of any script are not encoded: OpenCADC's services write them so and compare URIs literally.
    """
    return _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", path) if _UNSAFE.search(path) else path
