"""HTTP clients of Rucio Storage Elements (RSEs): where files are on each, their sizes, and their bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote

import aiohttp
from prepare_data_client.did import DID, Algorithm
from voservice.answers import IDENTITY, Representation, Unreadable, seconds_asked
from voservice.content import Content
from voservice.sources import RedirectedTooOften, SourceRefused, reason, show
from voservice.storage_elements import (
    CredentialRefused,
    CredentialUnavailable,
    Element,
    Elements,
    StorageElement,
)
from vospace_client.errors import AWAY_STATUS, PASSING_STATUS, TransferError, is_away, on_tape
from vospace_client.terms import ON_TAPE

from preparer.config import PreparerSettings
from preparer.ledger import File, NewFile

Layout = Literal["hash", "identity", "none"]
CHUNK = 1 << 20
MISSING = {404, 410}
TAPE = 202


class RseError(Exception):
    """The RSE is unavailable (*away*), or its answer says neither that it has the file nor that it has not.

    It was not *asked* where the user has no credential for it.
    """

    def __init__(self, detail: str, *, away: bool = False, asked: bool = True) -> None:
        """Record what happened."""
        super().__init__(detail)
        self.away = away
        self.asked = asked


class UserRefused(TransferError):
    """This user has no credential for one RSE, which says nothing of that RSE."""

    def __init__(self, rse: str, why: str) -> None:
        """Say why."""
        super().__init__("NotAuthenticated", refused(rse, why))


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


def path_on(layout: Layout, did: str, path: str, layouts: Collection[Layout]) -> str:
    """Return where a file is on an RSE of a *layout*; *path* is where the request says.

    Where other RSEs of the site have other *layouts*, the path by one of those is that of the same file. Any other path
    is taken as it is.
    """
    others: list[Algorithm] = [other for other in layouts if other != "none" and other != layout]
    if layout == "none" or not others:
        return path
    identifier = DID.parse(did)
    if not identifier.lies_at(path, layout) and any(identifier.lies_at(path, other) for other in others):
        return identifier.path(layout)
    return path


class Rse:
    """Client of one RSE."""

    def __init__(self, settings: StorageElement, element: Element, layouts: Collection[Layout] = ()) -> None:
        """Ask by *element*, which has the credential; *layouts* are those of all RSEs of the site."""
        self.name = settings.name
        self.settings = settings
        self.element = element
        self._layouts = layouts

    @property
    def credential_of_user(self) -> bool:
        """Whether it is asked with a token of the user, which nobody else may have."""
        return self.settings.credential == "token_exchange"

    def url(self, path: str) -> str:
        """Return the URL of the file at *path* below the RSE's root."""
        return f"{self.settings.url}/{quote(path)}"

    def source(self, file: File | NewFile) -> str:
        """Return the URL of a file."""
        return self.url(path_on(self.settings.layout, file.did, file.path, self._layouts))

    def may_have(self, file: File | NewFile) -> bool:
        """Whether a file is where the layouts of the site say, or this RSE has none: then it may be anywhere."""
        if self.settings.layout == "none":
            return True
        identifier = DID.parse(file.did)
        return any(identifier.lies_at(file.path, layout) for layout in self._layouts if layout != "none")

    async def head(self, source: str, token: str | None = None) -> Source | None:
        """Return the size of the file at the URL *source*; None if there is none. Raises `RseError`.

        *token* is that of the user who wants it.
        """
        try:
            async with await self._ask("HEAD", source, {}, token) as answer:
                if answer.status in {200, TAPE, 204} | MISSING | PASSING_STATUS:
                    return _source(answer, source)
            # HEAD may not be supported, or not be allowed: ask for one byte instead.
            answer = await self._ask("GET", source, {"Range": "bytes=0-0"}, token)
            try:
                return _source(answer, source)
            finally:
                # A server that ignores the range sends all of the file.
                answer.close()
        except (SourceRefused, RedirectedTooOften) as exc:
            raise RseError(f"the RSE: {exc}") from exc
        except CredentialRefused as exc:
            raise RseError(refused(self.name, str(exc)), asked=False) from exc
        except CredentialUnavailable as exc:
            raise RseError(f"no credential for {self.name}: {exc}", away=True) from exc
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise RseError(f"the RSE does not answer: {type(exc).__name__}", away=is_away(exc)) from exc

    @asynccontextmanager
    async def opened(
        self, source: str, wanted: int | None = None, token: str | None = None
    ) -> AsyncIterator[Sending]:
        """Open the file at the URL *source*, of *wanted* bytes if that is known, for the user of *token*.

        Raises `TransferError`.
        """
        try:
            answer, apart = await self.element.download(source, IDENTITY, user=token)
            async with answer:
                if answer.status == TAPE:
                    asked = seconds_asked(answer.headers.get("Retry-After"))
                    raise TransferError(ON_TAPE, on_tape(asked), transient=True, retry_after=asked)
                if answer.status in MISSING:
                    raise TransferError("SourceNotFound", f"{show(source)} does not exist on the RSE")
                if answer.status not in (200, 204):
                    raise TransferError(
                        "TransferFailed",
                        f"the RSE answered {answer.status}",
                        transient=answer.status in PASSING_STATUS,
                        away="RSE" if answer.status in AWAY_STATUS else None,
                        retry_after=seconds_asked(answer.headers.get("Retry-After")),
                    )
                told = Representation.of(answer.status, answer.headers, source, wanted=wanted)
                yield Sending(answer, replace(told, stated=told.stated_with(apart)))
        except SourceRefused as exc:
            raise TransferError("InvalidArgument", str(exc)) from exc
        except CredentialRefused as exc:
            raise UserRefused(self.name, str(exc)) from exc
        except CredentialUnavailable as exc:
            raise TransferError(
                "TransferFailed", f"no credential for {self.name}: {exc}", away="RSE"
            ) from exc
        except (RedirectedTooOften, Unreadable) as exc:
            raise TransferError("TransferFailed", f"the RSE: {exc}") from exc
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise unanswered(exc) from exc

    async def _ask(
        self, method: str, source: str, headers: dict[str, str], token: str | None
    ) -> aiohttp.ClientResponse:
        return await self.element.ask(method, source, IDENTITY | headers, user=token)


class Rses:
    """The RSEs of the site, in the order of preference."""

    def __init__(self, settings: PreparerSettings) -> None:
        """Open nothing yet."""
        self._settings = settings.rses
        self._elements = Elements(self._settings, _session, issuer=settings.oidc_issuer)
        # Without an RSE that has no layout, no request is accepted for a path elsewhere.
        layouts = {element.layout for element in self._settings}
        self._strict = settings.preparer_path_check == "strict" and "none" in layouts
        self.all: list[Rse] = []

    async def __aenter__(self) -> Self:
        """Open the sessions."""
        await self._elements.__aenter__()
        layouts = {settings.layout for settings in self._settings}
        self.all = [
            Rse(element.settings, element, layouts) for element in self._elements.all if element.settings
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the sessions."""
        await self._elements.__aexit__(kind, error, trace)

    def of(self, file: File | NewFile) -> list[Rse]:
        """Return the RSEs that may be asked for a file: those that it names, or all; who is away comes last.

        One with a layout is not asked for a path of no layout, unless the site has switched that check off.
        """
        named = file.rse.split(",") if file.rse else [rse.name for rse in self.all]
        known = {rse.name: rse for rse in self.all}
        found = [known[name] for name in named if name in known]
        if self._strict:
            found = [rse for rse in found if rse.may_have(file)]
        return sorted(found, key=lambda rse: rse.element.away)

    def name_of(self, source: str | None) -> str | None:
        """Return the name of the RSE that has a URL."""
        if not source:
            return None
        try:
            return self._elements.of(source).name
        except SourceRefused:
            return None

    async def head(self, file: File | NewFile, token: str) -> Source | None:
        """Return the size of a file on the first RSE that has it; None if none has. Raises `RseError`."""
        failure: RseError | None = None
        for rse in self.of(file):
            try:
                found = await rse.head(rse.source(file), token)
            except RseError as exc:
                failure = failure if failure and failure.away else exc
                if exc.asked:
                    rse.element.note(away=exc.away)
            else:
                if found is not None:
                    return found
        if failure is not None:
            raise failure
        return None


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        # Not in total, which counts the time for which a request waits for a free connection.
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _source(answer: aiohttp.ClientResponse, source: str) -> Source | None:
    if answer.status in MISSING:
        return None
    if answer.status == TAPE:
        return Source(None)
    # 416: the file is empty.
    if answer.status not in (200, 204, 206, 416):
        raise RseError(f"the RSE answered {answer.status}", away=answer.status in AWAY_STATUS)
    try:
        representation = Representation.of(answer.status, answer.headers, source)
    except Unreadable:
        return Source(None)
    return Source(representation.length, representation.modified)


def refused(rse: str, reason: str) -> str:
    """Return what a user is told who has no credential for an RSE."""
    return (
        f"your token was not exchanged for one for {rse}: {reason}; sign in again, or ask who may read there"
    )


def unanswered(exc: Exception) -> TransferError:
    """Return the error for a request to the RSE with no response, or an incomplete one."""
    return TransferError(
        "TransferFailed",
        f"the RSE: {reason(exc)}",
        transient=True,
        away="RSE" if is_away(exc) else None,
    )
