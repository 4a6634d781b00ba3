"""Node identifiers (VOSpace 2.1 section 3.1): `vos://authority~service/path`."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote, unquote, urlsplit

from voservice.uris import encode_node_path

from vospace.models.errors import InvalidURI

Path = tuple[str, ...]
"""Names from the root of the space downwards, decoded; the root is empty."""

XML_SPACE = " \t\r\n"
"""White space of XML; names may contain other space characters."""
MAX_NAME = 255
MAX_PATH = 4096
STAGING_PREFIX = ".vospace-"
"""Beginning of the names of files being staged; reserved, so no node can have it."""

_SAFE = "!$&'()*+,;=:@~-._"


def check_name(name: str) -> str:
    """Return a name that the file system can store. Raises InvalidURI."""
    if name in ("", ".", "..") or "/" in name or "\x00" in name:
        raise InvalidURI(f"not a node name: {name[:80]!r}")
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        raise InvalidURI(f"a node name must be Unicode: {name[:80]!r}") from None
    if size > MAX_NAME:
        raise InvalidURI(f"a node name is limited to {MAX_NAME} bytes: {name[:80]!r}...")
    if any(ord(c) < 0x20 or ord(c) in (0x7F, 0xFFFE, 0xFFFF) for c in name):
        raise InvalidURI(f"a node name must not hold control characters: {name[:80]!r}")
    if name.startswith(STAGING_PREFIX):
        raise InvalidURI(f"names that begin with {STAGING_PREFIX} are reserved")
    return name


def check_new_name(name: str) -> None:
    """Reject C1 control characters, which terminals interpret too, in the name of a new node. Existing nodes with such
    names can be found, removed and renamed. Raises InvalidURI."""
    if any(0x80 <= ord(c) < 0xA0 for c in name):
        raise InvalidURI(f"a node name must not hold control characters: {name[:80]!r}")


def parse_path(text: str) -> Path:
    """Parse a decoded path; leading and trailing slashes are ignored. Raises InvalidURI."""
    stripped = text.strip("/")
    return _path(stripped.split("/") if stripped else [])


def decode_path(raw: str) -> Path:
    """Decode a percent-encoded path once. An encoded slash does not separate names, and names must not contain one.
    Raises InvalidURI."""
    stripped = raw.strip("/")
    try:
        return _path([unquote(name, errors="strict") for name in stripped.split("/")] if stripped else [])
    except UnicodeDecodeError:
        raise InvalidURI("the path is not percent-encoded UTF-8") from None


def _path(names: list[str]) -> Path:
    if sum(len(name.encode("utf-8", "surrogatepass")) + 1 for name in names) > MAX_PATH:
        raise InvalidURI(f"a path is limited to {MAX_PATH} bytes")
    return tuple(check_name(name) for name in names)


def encode_path(path: Iterable[str]) -> str:
    """Return `/a/b`, percent-encoded for a URL; the root is empty."""
    return "".join(f"/{quote(name, safe=_SAFE)}" for name in path)


def _authority(resource_id: str) -> str:
    parts = urlsplit(resource_id)
    if parts.scheme != "ivo" or not parts.netloc or not parts.path.strip("/"):
        raise ValueError(f"not a resource id: {resource_id!r}")
    return parts.netloc.lower() + "~" + parts.path.strip("/").replace("/", "~")


class Naming:
    """Converts between paths and the URIs of one service."""

    def __init__(self, resource_id: str, aliases: Iterable[str] = ()) -> None:
        """`resource_id`: such as `ivo://opencadc.org/cavern`; `aliases`: others under which the service is registered;
        their URIs are accepted but never written. Raises ValueError."""
        self.authority = _authority(resource_id)
        self.root = f"vos://{self.authority}"
        self._authorities = frozenset(_authority(name).lower() for name in (resource_id, *aliases))

    def uri(self, path: Path) -> str:
        """Return the URI; characters that RFC 3986 forbids in paths are percent-encoded, letters of any script are
        not."""
        return (
            f"{self.root}/{encode_node_path('/'.join(path))}" if path else self.root
        )  # names contain no slash

    def path(self, uri: str) -> Path:
        """Return the path of a URI of this service, with `~` or `!` in the authority. Raises InvalidURI."""
        prefix, _, rest = uri.strip(XML_SPACE).partition("://")
        authority, _, path = rest.partition("/")
        if prefix.lower() != "vos" or authority.lower().replace("!", "~") not in self._authorities:
            raise InvalidURI(f"not a node of {self.root}: {uri[:200]}")
        path = path.split("#", 1)[0].split("?", 1)[0]
        return decode_path(path) if "%" in path else parse_path(path)
