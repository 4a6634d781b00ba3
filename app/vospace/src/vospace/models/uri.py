"""Node identifiers (VOSpace 2.1 section 3.1): `vos://authority~service/path`."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote, unquote, urlsplit

from voservice.uris import encode_node_path

from vospace.models.errors import InvalidURI

Path = tuple[str, ...]
"""Names from the root of the space downwards, decoded; the root is empty."""

XML_SPACE = " \t\r\n"
"""White space of XML; other blanks belong to names."""
MAX_NAME = 255
MAX_PATH = 4096
STAGING_PREFIX = ".vospace-"
"""Names of files that are not there yet; no node may be called so."""

_SAFE = "!$&'()*+,;=:@~-._"


def check_name(name: str) -> str:
    """A name as the file system can hold it. Raises InvalidURI."""
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
    """Refuse further control characters (C1), which terminals obey too, in the name of a node that is to be made. Nodes
    that have them already are found, and may be removed or renamed. Raises InvalidURI."""
    if any(0x80 <= ord(c) < 0xA0 for c in name):
        raise InvalidURI(f"a node name must not hold control characters: {name[:80]!r}")


def parse_path(text: str) -> Path:
    """A decoded path with slashes; a slash at either end does not count. Raises InvalidURI."""
    stripped = text.strip("/")
    return _path(stripped.split("/") if stripped else [])


def decode_path(raw: str) -> Path:
    """A percent-encoded path, decoded once; an encoded slash separates nothing, and no name may have one. Raises
    InvalidURI."""
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
    """`/a/b`, percent-encoded for a URL; the root is empty."""
    return "".join(f"/{quote(name, safe=_SAFE)}" for name in path)


def _authority(resource_id: str) -> str:
    parts = urlsplit(resource_id)
    if parts.scheme != "ivo" or not parts.netloc or not parts.path.strip("/"):
        raise ValueError(f"not a resource id: {resource_id!r}")
    return parts.netloc.lower() + "~" + parts.path.strip("/").replace("/", "~")


class Naming:
    """Converts between paths and the URIs of one service."""

    def __init__(self, resource_id: str, aliases: Iterable[str] = ()) -> None:
        """`resource_id`: such as `ivo://opencadc.org/cavern`; `aliases`: others under which the service is registered,
        whose URIs are understood and never written. Raises ValueError."""
        self.authority = _authority(resource_id)
        self.root = f"vos://{self.authority}"
        self._authorities = frozenset(_authority(name).lower() for name in (resource_id, *aliases))

    def uri(self, path: Path) -> str:
        """The URI; what RFC 3986 allows in no path is percent-encoded, letters of any script stay."""
        return f"{self.root}/{encode_node_path('/'.join(path))}" if path else self.root  # names hold no slash

    def path(self, uri: str) -> Path:
        """The path of a URI of this service, with `~` or `!` in the authority. Raises InvalidURI."""
        prefix, _, rest = uri.strip(XML_SPACE).partition("://")
        authority, _, path = rest.partition("/")
        if prefix.lower() != "vos" or authority.lower().replace("!", "~") not in self._authorities:
            raise InvalidURI(f"not a node of {self.root}: {uri[:200]}")
        path = path.split("#", 1)[0].split("?", 1)[0]
        return decode_path(path) if "%" in path else parse_path(path)
