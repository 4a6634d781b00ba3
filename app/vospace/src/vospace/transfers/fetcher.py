"""Fetching one file from an HTTP source, or the first of several that delivers, whole or not at all.

The fetcher asks for the bytes as they are stored (no content coding; what comes coded all the same is decoded, unless
the file is such a one itself), follows redirects only where the source policy lets it, and repeats what failed for a
passing reason. A repetition resumes behind the bytes already had, by `Range`, if the source gave a validator that
`If-Range` may carry (RFC 9110 section 13.1.5); otherwise it starts over. Length and checksums that the source or the
caller stated are compared before the sink is told that all is there.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import aiohttp
from voservice import tracing
from voservice.answers import IDENTITY, Decoder, Representation, Unreadable, seconds_asked, total_of_range
from voservice.content import UNKNOWN, Content
from voservice.sources import RedirectedTooOften, SourceRefused, reason, show, show_all
from voservice.storage_elements import CredentialRefused, CredentialUnavailable, Element, Elements
from vospace_client.errors import on_tape
from vospace_client.terms import ON_TAPE, Unavailable

from vospace.models.errors import TransferFailed
from vospace.transfers import metrics
from vospace.transfers.continuing import Leftover, Note, source_key

logger = logging.getLogger(__name__)

PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
UNAVAILABLE_STATUS = frozenset({502, 503, 504})
"""Statuses that proxies answer for an unreachable source, and sources that cannot serve anybody now."""
_START_OF_RANGE = re.compile(r"bytes ([0-9]{1,18})-")


class Sink(Protocol):
    """Destination of the bytes; `length` counts those accepted."""

    @property
    def length(self) -> int: ...

    @property
    def md5(self) -> str: ...

    @property
    def adler32(self) -> str: ...

    async def write(self, data: bytes) -> None: ...

    async def flush(self) -> None:
        """After this the three measures hold for all that was written."""
        ...

    async def restart(self) -> None:
        """Forget all bytes."""
        ...


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Times in seconds, sizes in bytes. `attempts` are counted since the last progress."""

    max_bytes: int = 0
    connect_timeout: float = 10.0
    stall_timeout: float = 60.0
    attempts: int = 5
    backoff: float = 0.5
    backoff_max: float = 30.0


@dataclass(frozen=True, slots=True)
class Fetched(Content):
    """Content that arrived, the media type that the source named, and the encoding of a file that is coded itself.

    ``source`` is the URL that delivered.
    """

    media_type: str | None = None
    encoding: str | None = None
    source: str | None = None


class _Retry(Exception):
    """This attempt failed for a reason that may pass."""

    def __init__(
        self, detail: str, after: float = 0.0, *, start_over: bool = False, away: Unavailable | None = None
    ) -> None:
        super().__init__(detail)
        self.after = after
        self.start_over = start_over
        self.away = away


def open_session(limits: FetchLimits, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    """A session for fetchers: connections are kept alive, nothing is decoded, no cookies, no proxies from outside."""
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=limits.connect_timeout, connect=None, sock_read=limits.stall_timeout
        ),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "vospace", **IDENTITY},
        read_bufsize=1 << 20,
        trace_configs=tracing.followed(),
    )


class Fetcher:
    """Fetches files from storage elements and other sources."""

    def __init__(self, elements: Elements, limits: FetchLimits) -> None:
        self._elements = elements
        self._limits = limits

    async def fetch(
        self,
        urls: Sequence[str],
        sink: Sink,
        expected: Content,
        quota_left: int | None = None,
        *,
        trusted: bool = False,
        leftover: Leftover | None = None,
    ) -> Fetched:
        """Fill the sink with the file behind the first of `urls` that delivers; `quota_left` is in bytes.

        What an earlier process has left of it is continued, from the source that it came from.

        Credentials of storage elements are used for who is `trusted` with them alone. Raises TransferFailed; the sink's
        bytes are then worthless.
        """
        with tracing.detail("fetch") as span:
            try:
                fetched = await self._first(urls, sink, expected, quota_left, leftover, trusted=trusted)
            except TransferFailed as failure:
                span.set("fault", failure.name)
                metrics.PULLS.labels(failure.name).inc()
                raise
            span.set("bytes", fetched.size or 0)
        metrics.PULLS.labels("").inc()
        metrics.PULLED.inc(fetched.size or 0)
        return fetched

    async def _first(
        self,
        urls: Sequence[str],
        sink: Sink,
        expected: Content,
        quota_left: int | None,
        leftover: Leftover | None,
        *,
        trusted: bool,
    ) -> Fetched:
        try:
            sources = self._elements.reachable(urls)
        except SourceRefused as error:
            raise TransferFailed("InvalidArgument", str(error)) from error
        note = None
        if leftover is not None and leftover.note is not None:
            note = Note.read(leftover.note)
            if note is None:
                await sink.restart()
        if note is not None:
            sources = sorted(sources, key=lambda source: source_key(source[1]) != note.source)
        failures: list[TransferFailed] = []
        for place, (element, url) in enumerate(sources, start=1):
            if sink.length:
                await sink.restart()
            attempt = _Attempt(element, trusted, self._limits, url, sink, expected, quota_left, leftover)
            if place == 1 and note is not None and leftover is not None:
                await attempt.take_over(note, leftover)
            try:
                fetched = await self._attempts(attempt, element, sink, hasten=place < len(sources))
            except TransferFailed as failure:
                if failure.name == "QuotaExceeded":
                    raise
                failures.append(failure)
            else:
                return replace(fetched, source=url)
        if len(failures) == 1:
            raise failures[0]
        # What is on its way is worth waiting for most, then what may pass.
        best = min(failures, key=lambda failure: (failure.name != ON_TAPE, not failure.transient))
        detail = "; ".join(failure.detail for failure in failures)
        raise TransferFailed(
            best.name, f"no source delivered: {detail}", transient=best.transient, away=best.away
        )

    async def _attempts(self, attempt: _Attempt, element: Element, sink: Sink, *, hasten: bool) -> Fetched:
        """Try one source until it delivers or there is no point in it; if there are others, until it is away."""
        shown, failures = show(attempt.source), 0
        while True:
            before = sink.length
            away: Unavailable | None
            try:
                fetched = await attempt.run()
            except SourceRefused as error:
                raise TransferFailed("InvalidArgument", str(error)) from error
            except (RedirectedTooOften, Unreadable) as error:
                raise TransferFailed("TransferFailed", f"{shown}: {error}") from error
            except CredentialRefused as error:
                raise TransferFailed(
                    "TransferFailed", f"{shown}: no credential for {element.name}: {error}"
                ) from error
            except CredentialUnavailable as error:
                problem, after, away = f"no credential for {element.name}: {error}", 0.0, "source"
            except _Retry as retry:
                problem, after, away = str(retry), retry.after, retry.away
                if retry.start_over:
                    await attempt.start_over()
            except aiohttp.ClientSSLError as error:
                raise TransferFailed("TransferFailed", f"{shown}: {reason(error)}") from error
            except (TimeoutError, aiohttp.ClientError, OSError) as error:
                problem, after = reason(error), 0.0
                away = "source" if _is_outage(error) else None
            else:
                element.note(away=False)
                return fetched
            failures = 1 if sink.length > before else failures + 1
            if away:
                element.note(away=True)
            if failures >= self._limits.attempts or (away and hasten and sink.length == before):
                raise TransferFailed("TransferFailed", f"{shown}: {problem}", transient=True, away=away)
            delay = min(self._limits.backoff * 2 ** (failures - 1), self._limits.backoff_max)
            delay = max(delay * random.uniform(0.5, 1.0), min(after, self._limits.backoff_max))  # noqa: S311 - jitter
            logger.info(
                "fetch of %s failed at byte %d, again in %.1f s: %s", shown, sink.length, delay, problem
            )
            await asyncio.sleep(delay)


class _Attempt:
    """State shared by the attempts at one source: their progress and what the source stated of the file."""

    def __init__(
        self,
        element: Element,
        trusted: bool,
        limits: FetchLimits,
        source: str,
        sink: Sink,
        expected: Content,
        quota_left: int | None,
        leftover: Leftover | None,
    ) -> None:
        self._leftover = leftover
        self._element = element
        self._trusted = trusted
        self._limits = limits
        self.source = source
        self._sink = sink
        self._expected = expected
        self._quota_left = quota_left
        self._forget()

    def _forget(self) -> None:
        self._stated = UNKNOWN
        self._told = Representation()
        self._decoder: Decoder | None = None
        self._resumed = False

    async def start_over(self) -> None:
        await self._sink.restart()
        self._forget()

    async def take_over(self, note: Note, leftover: Leftover) -> None:
        """Go on where an earlier process ended, if this is the source that its bytes are from."""
        if note.source != source_key(self.source) or not self._expected.completed(note.stated).has_checksum:
            await self._sink.restart()
            return
        await leftover.adopt()
        self._told, self._stated, self._resumed = note.told, note.stated, True
        leftover.remember(note.write())
        logger.info("fetch of %s continues at byte %d", show(self.source), self._sink.length)

    async def run(self) -> Fetched:
        if self._stated.size is not None and self._sink.length == self._stated.size:
            return await self._verify()  # broke behind the last byte
        validator = self._told.validator
        if self._sink.length and validator is None:
            await self.start_over()
        headers = {}
        if self._sink.length and validator is not None:
            headers = {"Range": f"bytes={self._sink.length}-", "If-Range": validator}
        response, apart = await self._element.download(self.source, headers, trusted=self._trusted)
        try:
            await self._accept(response, apart)
            await self._read(response)
        except BaseException:
            response.close()
            raise
        response.release()
        return await self._verify()

    async def _accept(self, response: aiohttp.ClientResponse, apart: Content) -> None:
        """Judge status and headers, and the digests that were stated apart from them; afterwards what is read belongs
        behind the bytes the sink has."""
        status = response.status
        if status in (200, 204):
            if self._sink.length:
                await self.start_over()
            self._take_statements(response, apart)
        elif status == 206 and self._sink.length:
            self._resume(response)
        elif status == 416 and self._sink.length:
            raise _Retry("the source refused the range", start_over=True)
        elif status == 202:
            # So StoRM and others answer for a file that is on tape, and begin to bring it.
            told = on_tape(seconds_asked(response.headers.get("Retry-After")))
            raise TransferFailed(ON_TAPE, f"{show(self.source)}: {told}", transient=True)
        elif status in (404, 410):
            raise TransferFailed("SourceNotFound", f"{show(self.source)}: {_status(response)}")
        elif status in PASSING_STATUS:
            after = seconds_asked(response.headers.get("Retry-After")) or 0.0
            away: Unavailable | None = "source" if status in UNAVAILABLE_STATUS else None
            raise _Retry(f"source answered {_status(response)}", after, away=away)
        else:
            raise TransferFailed(
                "TransferFailed", f"{show(self.source)}: source answered {_status(response)}"
            )
        self._check_announced()

    def _take_statements(self, response: aiohttp.ClientResponse, apart: Content) -> None:
        name = self.source.partition("#")[0].partition("?")[0]
        told = Representation.of(response.status, response.headers, name, wanted=self._expected.size)
        self._told, self._decoder = told, told.decoder()
        self._stated = told.stated_with(apart).completed(Content(told.length))
        if self._leftover is not None:
            note = Note.of(self.source, told, self._stated, self._expected)
            self._leftover.remember(None if note is None else note.write())

    def _resume(self, response: aiohttp.ClientResponse) -> None:
        match = _START_OF_RANGE.match(response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != self._sink.length:
            raise _Retry("the source sent another range than asked", start_over=True)
        total = total_of_range(response.headers)
        if self._stated.size is not None and total is not None and total != self._stated.size:
            raise _Retry("the file changed at the source", start_over=True)
        self._resumed = True

    def _check_announced(self) -> None:
        length = self._stated.size
        if length is None:
            return
        if self._expected.size is not None and length != self._expected.size:
            raise TransferFailed(
                "SizeMismatch", f"{show(self.source)} has {length} bytes, expected {self._expected.size}"
            )
        self._check_size(length)

    def _check_size(self, length: int) -> None:
        if self._quota_left is not None and length > self._quota_left:
            raise TransferFailed("QuotaExceeded", f"{show(self.source)} does not fit into the quota")
        if self._limits.max_bytes and length > self._limits.max_bytes:
            raise TransferFailed(
                "InvalidArgument",
                f"{show(self.source)} is larger than the limit of {self._limits.max_bytes} bytes",
            )

    async def _read(self, response: aiohttp.ClientResponse) -> None:
        try:
            async for data, _ in response.content.iter_chunks():
                for piece in (data,) if self._decoder is None else self._decoder.feed(data):
                    await self._write(piece)
        finally:
            await self._sink.flush()
        if self._decoder is not None and not self._decoder.end():
            raise _Retry("what the source sent coded is not whole")

    async def _write(self, data: bytes) -> None:
        await self._sink.write(data)
        if self._expected.size is not None and self._sink.length > self._expected.size:
            raise TransferFailed(
                "SizeMismatch",
                f"{show(self.source)} has more than the expected {self._expected.size} bytes",
            )
        self._check_size(self._sink.length)

    async def _verify(self) -> Fetched:
        with tracing.detail("verify"):
            return self._verified()

    def _verified(self) -> Fetched:
        sink = self._sink
        if self._stated.size is not None and sink.length != self._stated.size:
            raise _Retry(f"the source sent {sink.length} of {self._stated.size} bytes")
        found = Content(sink.length, sink.md5, sink.adler32)
        for expected, whose in ((self._stated, "stated by the source"), (self._expected, "asked for")):
            mismatch = expected.differs(found)
            if mismatch is None:
                continue
            if self._resumed:  # the pieces may be of two versions of the file
                raise _Retry(f"{mismatch} ({whose})", start_over=True)
            raise TransferFailed(mismatch.fault, f"{show(self.source)}: {mismatch} ({whose})")
        named = self._told.media_type
        media_type = (
            None if named == "application/octet-stream" else named
        )  # what a file is called by default
        return Fetched(found.size, found.md5, found.adler32, media_type, self._told.encoding)


def _status(response: aiohttp.ClientResponse) -> str:
    """Return the status of a response, and the words that its server has for it."""
    return f"{response.status} {show_all(response.reason or '')}".strip()


def _is_outage(error: Exception) -> bool:
    """Whether the source did not answer, or the connection to it broke: not what it sent was wrong."""
    if isinstance(error, aiohttp.ClientPayloadError):
        error = error.__cause__ if isinstance(error.__cause__, Exception) else error
    return isinstance(error, (TimeoutError, aiohttp.ClientConnectionError, OSError))
