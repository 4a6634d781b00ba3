"""Which URLs the service may fetch from or send to: nothing but what is configured.

A request to a URL that a user chose is a request made with the service's place in the network. So a URL must lie below
one of the configured base URLs, compared by scheme, host, port and whole path segments, after decoding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote

from yarl import URL


class SourceRefused(ValueError):
    """The URL is malformed or outside the configured bases; the text says which and is safe to show."""


@dataclass(frozen=True, slots=True)
class _Base:
    scheme: str
    host: str
    port: int
    segments: tuple[str, ...]


class SourcePolicy:
    """The configured bases, such as `http://rse-web:80/rse/deterministic`."""

    def __init__(self, bases: Iterable[str]) -> None:
        """Raises SourceRefused for a base that is no plain http or https URL."""
        self._bases = tuple(_Base(*_parts(base)) for base in bases)

    @property
    def empty(self) -> bool:
        return not self._bases

    def check(self, url: str) -> URL:
        """The URL, ready for a request. Raises SourceRefused."""
        scheme, host, port, segments = _parts(url)
        for base in self._bases:
            if (scheme, host, port) == (base.scheme, base.host, base.port) and (
                segments[: len(base.segments)] == base.segments
            ):
                return URL(url.split("#", 1)[0], encoded=True)
        raise SourceRefused(f"{_show(url)} is not below a source URL that this service is configured to use")

    def redirect(self, current: URL, location: str) -> URL:
        """Where a redirect leads. Raises SourceRefused if that is elsewhere, or from https to http."""
        try:
            target = current.join(URL(location, encoded=True))
        except ValueError as error:
            raise SourceRefused(f"malformed redirect of {_show(str(current))}") from error
        if current.scheme == "https" and target.scheme != "https":
            raise SourceRefused(f"redirect of {_show(str(current))} from https to http")
        return self.check(str(target))


def _parts(url: str) -> tuple[str, str, int, tuple[str, ...]]:
    if any(ord(c) <= 0x20 or ord(c) == 0x7F for c in url) or "\\" in url:
        raise SourceRefused("a URL must not contain blanks, control characters or backslashes")
    try:
        parsed = URL(url, encoded=True)
        host, port = parsed.host, parsed.port
    except ValueError as error:
        raise SourceRefused(f"malformed URL {_show(url)}") from error
    if parsed.scheme not in ("http", "https") or not host or port is None:
        raise SourceRefused(f"{_show(url)} is not an http or https URL with a host")
    if parsed.user is not None or parsed.password is not None or "@" in parsed.authority:
        raise SourceRefused("a URL must not carry credentials")
    segments = tuple(unquote(segment) for segment in parsed.raw_path.split("/") if segment)
    for segment in segments:
        if segment in (".", "..") or any(c in "/\\" or ord(c) < 0x20 for c in segment):
            raise SourceRefused(f"{_show(url)} has a path segment that could lead elsewhere")
    return parsed.scheme, host.lower().rstrip("."), port, segments


def _show(url: str) -> str:
    """For messages: without query, which may hold a signature, and not longer than a line."""
    return url.split("?", 1)[0].split("#", 1)[0][:200]
