"""Policy for the URLs that a service may fetch from, send to and be redirected to.

A request to a URL chosen by a user has the service's access to the network (server-side request forgery). So a URL must
be below one of the configured base URLs, compared by scheme, host, port and whole path segments, after decoding. The
host of a base may begin with `*.` for any name below a domain, and its port may be `*`: storage elements redirect to
one of many servers.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import quote, unquote

import aiohttp
from yarl import URL

MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Characters that stay unencoded; all others in a Location are percent-encoded, as in browsers.
# A base with any port has none in `host`.
_BASE = re.compile(r"(?P<scheme>https?://)(?P<many>\*\.)?(?P<host>[^/*]*?)(?P<any>:\*)?(?P<path>/.*)?")
_PLAIN = "!\"#$%&'()*+,/:;<=>?@[\\]^`{|}~"


_SCHEME = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:)?//")
_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")
_SHOWN = 200


def show(url: str) -> str:
    """Return a URL for messages: shortened, without user, query and fragment, which may contain secrets.

    A redirect's target has a ticket there, or a token as `authz`.
    """
    plain = re.split(r"[?#]", url, maxsplit=1)[0]
    match = _SCHEME.match(plain)
    scheme = match[0] if match else ""
    authority, slash, path = plain[len(scheme) :].partition("/")
    return f"{scheme}{authority.rpartition('@')[2]}{slash}{path}"[:_SHOWN]


def show_all(text: str) -> str:
    """Return a text of somebody else for messages, with its URLs as `show` returns them."""
    return _IN_TEXT.sub(lambda match: show(match[0]), text)


def reason(error: BaseException) -> str:
    """Return for messages what an HTTP client says of a failed request: its kind, and no URL with secrets.

    An error about a response quotes the request's URL, and one about a malformed header the header, which may be the
    target of a redirect: of these only the words before the quotation are returned.
    """
    text = str(error)
    if isinstance(error, aiohttp.ClientResponseError):
        words = error.message.partition("\n")[0].partition(":")[0]
        text = show_all(f"{error.status} {words}".strip())
    return f"{type(error).__name__}: {show_all(text)}".rstrip(": ")


class SourceRefused(ValueError):
    """The URL is malformed or outside the configured bases; the text states which and is safe to show."""


class RedirectedTooOften(Exception):
    """A source redirects in a circle or too often."""


@dataclass(frozen=True, slots=True)
class _Base:
    scheme: str
    host: str
    """Name, or one that begins with a dot for any name that ends in it."""
    port: int | None
    """None for any port."""
    segments: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> _Base:
        """Parse a base. Raises SourceRefused."""
        match = _BASE.fullmatch(text)
        if match is None:
            return cls(*_parts(text))
        scheme, host, port, segments = _parts(match["scheme"] + match["host"] + (match["path"] or ""))
        if match["many"]:
            if "." not in host:
                raise SourceRefused(f"{show(text)}: *. must be followed by a domain, such as example.org")
            host = f".{host}"
        return cls(scheme, host, None if match["any"] else port, segments)

    def holds(self, scheme: str, host: str, port: int, segments: tuple[str, ...]) -> bool:
        return (
            scheme == self.scheme
            and (host.endswith(self.host) if self.host.startswith(".") else host == self.host)
            and self.port in (None, port)
            and segments[: len(self.segments)] == self.segments
        )


def confidential_base(url: str) -> str:
    """Return the base URL of a server that secrets are sent to, without slashes at its end.

    Raises ValueError unless it is https, or http to this machine, without user, query and fragment.
    """
    scheme, host, _, _ = _parts(url)
    if any(character in url for character in "?#*"):
        raise ValueError(f"{show(url)} is not a base URL: it must have no query, fragment or *")
    if scheme != "https" and not _is_here(host):
        raise ValueError(f"{show(url)} must be https, since secrets are sent there")
    return url.rstrip("/")


def place(url: str) -> tuple[str, str, int, tuple[str, ...]]:
    """Return scheme, host, port and decoded path segments of a URL: the same of all that lead to the same place.

    Raises SourceRefused.
    """
    return _parts(url)


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class SourcePolicy:
    """The configured bases, such as `http://rse-web:80/rse/deterministic`."""

    def __init__(self, bases: Iterable[str]) -> None:
        """Parse the bases. Raises SourceRefused for a base that is not a plain http or https URL."""
        self._bases = tuple(map(_Base.of, bases))

    @property
    def empty(self) -> bool:
        """Whether nothing may be fetched."""
        return not self._bases

    def check(self, url: str) -> URL:
        """Return the URL, normalised for a request. Raises SourceRefused."""
        parts = _parts(url)
        if any(base.holds(*parts) for base in self._bases):
            return URL(url.split("#", 1)[0], encoded=True)
        raise SourceRefused(f"{show(url)} is not below a source URL that this service is configured to use")

    def depth(self, url: str) -> int:
        """Return how many segments of the URL's path its longest base has, -1 if it has none. Raises SourceRefused."""
        parts = _parts(url)
        return max((len(base.segments) for base in self._bases if base.holds(*parts)), default=-1)

    def redirect(self, current: URL, location: str) -> URL:
        """Return the target of a redirect. Raises SourceRefused if it is not allowed, or from https to http."""
        try:
            plain = quote(location.encode("utf-8", "surrogateescape"), safe=_PLAIN)
            target = current.join(URL(plain, encoded=True))
            text = str(target)  # parses the port
        except ValueError as error:
            raise SourceRefused(f"malformed redirect of {show(str(current))}") from error
        if current.scheme == "https" and target.scheme != "https":
            raise SourceRefused(f"redirect of {show(str(current))} from https to http")
        return self.check(text)


async def follow(
    request: Callable[[URL], Awaitable[aiohttp.ClientResponse]], source: URL, policy: SourcePolicy
) -> aiohttp.ClientResponse:
    """Send *request* to a source and follow its redirects as far as the policy allows.

    *request* must not follow redirects itself. Raises SourceRefused, RedirectedTooOften, and what *request* raises.
    """
    url, seen = source, {source}
    while True:
        response = await request(url)
        location = response.headers.get("Location")
        if response.status not in REDIRECTS or location is None:
            return response
        response.close()
        url = policy.redirect(url, location)
        if url in seen or len(seen) > MAX_REDIRECTS:
            raise RedirectedTooOften(f"more than {MAX_REDIRECTS} redirects, or redirects in a circle")
        seen.add(url)


def _parts(url: str) -> tuple[str, str, int, tuple[str, ...]]:
    if any(ord(c) <= 0x20 or ord(c) == 0x7F for c in url) or "\\" in url:
        raise SourceRefused("a URL must not contain blanks, control characters or backslashes")
    try:
        parsed = URL(url, encoded=True)
        host, port = parsed.host, parsed.port
    except ValueError as error:
        raise SourceRefused(f"malformed URL {show(url)}") from error
    if parsed.scheme not in ("http", "https") or not host or port is None:
        raise SourceRefused(f"{show(url)} is not an http or https URL with a host")
    if parsed.user is not None or parsed.password is not None or "@" in parsed.authority:
        raise SourceRefused("a URL must not carry credentials")
    segments = tuple(unquote(segment) for segment in parsed.raw_path.split("/") if segment)
    for segment in segments:
        if segment in (".", "..") or any(c in "/\\" or ord(c) < 0x20 for c in segment):
            raise SourceRefused(f"{show(url)} has a path segment that could lead elsewhere")
    return parsed.scheme, host.lower().rstrip("."), port, segments
