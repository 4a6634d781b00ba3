"""HTTP client of a Rucio Storage Element (RSE): sizes of files, and their bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

import aiohttp
from voservice.answers import IDENTITY, Representation, Unreadable, seconds_asked
from voservice.content import Content
from voservice.digests import WANT_DIGEST
from voservice.sources import RedirectedTooOften, SourcePolicy, SourceRefused, follow
from vospace_client.errors import AWAY_STATUS, PASSING_STATUS, TransferError, is_away

from preparer.config import PreparerSettings

CHUNK = 1 << 20
MISSING = {404, 410}


class RseError(Exception):
    """The RSE is unavailable (*away*), or its answer says neither that it has the file nor that it has not."""

    def __init__(self, detail: str, *, away: bool = False) -> None:
        """Record what happened."""
        super().__init__(detail)
        self.away = away


@dataclass(frozen=True)
class Source:
    """A file on the RSE: size in bytes and time of the last change, as far as the RSE states them."""

    size: int | None
    modified: datetime | None = None


class Sending:
    """A response of the RSE whose body is to be read, and what its header fields state of the file."""

    def __init__(self, answer: aiohttp.ClientResponse, representation: Representation) -> None:
        """Read nothing yet."""
        self._answer = answer
        self.size = representation.length
        self.stated: Content = representation.stated
        self.media_type = representation.media_type
        self.encoding = representation.encoding
        self._decoder = representation.decoder()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the file's bytes as they arrive. Raises `TransferError`."""
        try:
            async for chunk in self._answer.content.iter_chunked(CHUNK):
                for piece in (chunk,) if self._decoder is None else self._decoder.feed(chunk):
                    yield piece
        except Unreadable as exc:
            raise TransferError("TransferFailed", f"the RSE: {exc}") from exc
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise unanswered(exc) from exc
        if self._decoder is not None and not self._decoder.end():
            raise TransferError("TransferFailed", "the RSE: what it sent coded is not whole", transient=True)


class Rse:
    """Client of one RSE. It never sends a credential."""

    def __init__(self, settings: PreparerSettings, session: aiohttp.ClientSession) -> None:
        """Allow requests below the RSE's root, and redirects from there as far as *settings* permit."""
        self._root = settings.abs_url_rse_root
        self._policy = SourcePolicy([self._root, *settings.preparer_sources])
        self._session = session

    def url(self, path: str) -> str:
        """Return the URL of the file at *path* below the RSE's root."""
        return f"{self._root}/{quote(path)}"

    async def head(self, source: str) -> Source | None:
        """Return the size of the file at the URL *source*; None if there is none. Raises `RseError`."""
        try:
            async with await self._ask("HEAD", source, {}) as answer:
                if answer.status in {200, 204} | MISSING | PASSING_STATUS:
                    return _source(answer, source)
            # HEAD may not be supported, or not be allowed: ask for one byte instead.
            answer = await self._ask("GET", source, {"Range": "bytes=0-0"})
            try:
                return _source(answer, source)
            finally:
                # A server that ignores the range sends all of the file.
                answer.close()
        except (SourceRefused, RedirectedTooOften) as exc:
            raise RseError(f"the RSE: {exc}") from exc
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise RseError(f"the RSE does not answer: {type(exc).__name__}", away=is_away(exc)) from exc

    @asynccontextmanager
    async def opened(self, source: str, wanted: int | None = None) -> AsyncIterator[Sending]:
        """Open the file at the URL *source*, of *wanted* bytes if that is known. Raises `TransferError`."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
        try:
            async with await self._ask("GET", source, WANT_DIGEST, timeout=timeout) as answer:
                if answer.status in MISSING:
                    raise TransferError("SourceNotFound", f"{source} does not exist on the RSE")
                if answer.status not in (200, 204):
                    raise TransferError(
                        "TransferFailed",
                        f"the RSE answered {answer.status}",
                        transient=answer.status in PASSING_STATUS,
                        away="RSE" if answer.status in AWAY_STATUS else None,
                        retry_after=seconds_asked(answer.headers.get("Retry-After")),
                    )
                yield Sending(answer, Representation.of(answer.status, answer.headers, source, wanted=wanted))
        except SourceRefused as exc:
            raise TransferError("InvalidArgument", str(exc)) from exc
        except (RedirectedTooOften, Unreadable) as exc:
            raise TransferError("TransferFailed", f"the RSE: {exc}") from exc
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise unanswered(exc) from exc

    async def _ask(
        self, method: str, source: str, headers: dict[str, str], **options: Any
    ) -> aiohttp.ClientResponse:
        url = self._policy.check(source)
        return await follow(self._session, method, url, self._policy, IDENTITY | headers, **options)


def _source(answer: aiohttp.ClientResponse, source: str) -> Source | None:
    if answer.status in MISSING:
        return None
    # 416: the file is empty.
    if answer.status not in (200, 204, 206, 416):
        raise RseError(f"the RSE answered {answer.status}", away=answer.status in AWAY_STATUS)
    try:
        representation = Representation.of(answer.status, answer.headers, source)
    except Unreadable:
        return Source(None)
    return Source(representation.length, representation.modified)


def unanswered(exc: Exception) -> TransferError:
    """Return the error for a request to the RSE with no response, or an incomplete one."""
    return TransferError(
        "TransferFailed",
        f"the RSE: {exc or type(exc).__name__}",
        transient=True,
        away="RSE" if is_away(exc) else None,
    )
