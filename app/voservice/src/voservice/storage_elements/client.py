"""Requests to storage elements with the right credential, within their limits, and only to allowed URLs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from time import monotonic
from types import TracebackType
from typing import Any, Self

import aiohttp
import httpx
from yarl import URL

from voservice import tracing
from voservice.content import UNKNOWN, Content
from voservice.digests import WANT_DIGEST, stated
from voservice.sources import SourcePolicy, SourceRefused, follow
from voservice.storage_elements.credentials import Connections, bearer
from voservice.storage_elements.settings import StorageElement

AWAY = 30.0
"""Seconds for which an unavailable storage element is tried after the others."""

OpenSession = Callable[[aiohttp.TCPConnector], aiohttp.ClientSession]


class Element:
    """A storage element, or a set of URLs without name and credential."""

    def __init__(
        self,
        settings: StorageElement | None,
        session: aiohttp.ClientSession,
        own: SourcePolicy,
        policy: SourcePolicy,
        *,
        issuer: str = "",
        client: httpx.AsyncClient | None = None,
        rate: float = 0.0,
    ) -> None:
        """Access URLs below *own* with *session*, and follow redirects as far as *policy* allows."""
        self.settings = settings
        self.name = settings.name if settings else None
        self.own = own
        self._policy = policy
        self._session = session
        self._connections = Connections(settings) if settings else None
        self._bearer = bearer(settings, issuer, client) if settings and client else None
        self._interval = 1 / rate if rate else 0.0
        self._next = 0.0
        self._turn = asyncio.Lock()
        self._away_until = float("-inf")
        self._digests_apart: set[URL] = set()

    @property
    def away(self) -> bool:
        """Whether it was unavailable a short time ago."""
        return monotonic() < self._away_until

    def note(self, *, away: bool) -> None:
        """Record whether it is available."""
        self._away_until = monotonic() + AWAY if away else float("-inf")

    def holds(self, url: str) -> bool:
        """Return whether a URL is below its own."""
        try:
            self.own.check(url)
        except SourceRefused:
            return False
        return True

    async def ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        trusted: bool = True,
        user: str | None = None,
        **options: Any,
    ) -> aiohttp.ClientResponse:
        """Send a request and follow redirects; the response is not decoded.

        The credential is used if the caller is *trusted* with it, on behalf of the user with the token *user*. Raises
        SourceRefused, RedirectedTooOften, CredentialUnavailable, CredentialRefused, and what the session raises.
        """
        source = self.own.check(url)

        async def request(target: URL) -> aiohttp.ClientResponse:
            await self._pace()
            proves = trusted and self.holds(str(target))
            tls: dict[str, Any] = {}
            if self._connections is not None and target.scheme == "https":
                tls["ssl"] = self._connections.proven() if proves else self._connections.plain
            for last in (False, True):
                proof = {}
                if proves and self._bearer is not None:
                    proof["Authorization"] = f"Bearer {await self._bearer.token(user)}"
                response = await self._session.request(
                    method,
                    target,
                    headers={**headers, **proof},
                    allow_redirects=False,
                    auto_decompress=False,
                    **tls,
                    **options,
                )
                if response.status != 401 or not proof or last:
                    break
                # It may have been revoked before its expiry.
                self._bearer.forget(user) if self._bearer else None
                response.close()
            return response

        return await follow(request, source, self._policy)

    async def download(
        self, url: str, headers: Mapping[str, str], *, trusted: bool = True, user: str | None = None
    ) -> tuple[aiohttp.ClientResponse, Content]:
        """GET a file and ask for its digests; return the response, and the digests that were stated apart from it.

        XRootD is asked for them by a HEAD. In the response to a GET that asks, 5.8 sometimes sends its own message of
        the checksum in place of the first bytes of the file.

        Raises as `ask`.
        """
        origin = URL(url).origin()
        if origin not in self._digests_apart:
            response = await self.ask("GET", url, {**headers, **WANT_DIGEST}, trusted=trusted, user=user)
            if not response.headers.get("Server", "").lower().startswith("xrootd"):
                return response, UNKNOWN
            response.close()
            self._digests_apart.add(origin)
        found = UNKNOWN
        if "Range" not in headers:
            asked = {**headers, **WANT_DIGEST}
            async with await self.ask("HEAD", url, asked, trusted=trusted, user=user) as told:
                if told.status == 200:
                    found = stated(told.headers)
        return await self.ask("GET", url, headers, trusted=trusted, user=user), found

    async def _pace(self) -> None:
        """Wait for this request's turn, which one that is cancelled meanwhile does not take."""
        if not self._interval:
            return
        async with self._turn:
            begin = max(monotonic(), self._next)
            await asyncio.sleep(begin - monotonic())
            self._next = begin + self._interval


class Elements:
    """All configured storage elements, in the order of preference, and other allowed URLs."""

    def __init__(
        self,
        elements: Sequence[StorageElement],
        open_session: OpenSession,
        *,
        issuer: str,
        others: Sequence[str] = (),
        processes: int = 1,
    ) -> None:
        """Use *elements*, and the base URLs *others*, which may redirect to each other.

        The limits of a storage element are divided among *processes*.
        """
        self._settings = elements
        self._open_session = open_session
        self._issuer = issuer
        self._others = others
        self._processes = processes
        self._stack = AsyncExitStack()
        self.all: list[Element] = []

    async def __aenter__(self) -> Self:
        """Open the sessions."""
        # Waiting for others' requests is no sign that the issuer is away.
        client = await self._stack.enter_async_context(tracing.client(timeout=httpx.Timeout(20, pool=None)))
        for settings in self._settings:
            own = SourcePolicy([settings.url])
            most = max(1, settings.connections // self._processes) if settings.connections else 0
            self.all.append(
                Element(
                    settings,
                    await self._session(most),
                    own,
                    SourcePolicy([settings.url, *settings.redirects]),
                    issuer=self._issuer,
                    client=client,
                    rate=settings.rate / self._processes,
                )
            )
        if self._others:
            policy = SourcePolicy(self._others)
            self.all.append(Element(None, await self._session(0), policy, policy))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the sessions."""
        await self._stack.aclose()

    async def _session(self, most: int) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=most, ttl_dns_cache=60, keepalive_timeout=30)
        return await self._stack.enter_async_context(self._open_session(connector))

    def of(self, url: str) -> Element:
        """Return the storage element of a URL: where one lies below another, the one that it is nearest to, whose
        credential serves there; one of the other allowed URLs comes last. Raises SourceRefused if there is none."""
        holding = [element for element in self.all if element.holds(url)]
        if not holding:
            SourcePolicy(()).check(url)
        return max(holding, key=lambda element: (element.settings is not None, element.own.depth(url)))

    def reachable(self, urls: Sequence[str]) -> list[tuple[Element, str]]:
        """Return *urls* with their storage elements, recently unavailable ones last. Raises SourceRefused."""
        found = [(self.of(url), url) for url in urls]
        return sorted(found, key=lambda pair: pair[0].away)
