"""Credentials for storage elements: request headers, or the client certificate of a connection."""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TypeVar
from weakref import WeakValueDictionary

import httpx

from voservice.auth import ACCESS_TOKEN, EXCHANGE, AuthenticationError, ClientCredentials, GrantRefused
from voservice.auth.client import lifetime_of
from voservice.storage_elements.settings import OF_CLIENT, StorageElement

KEPT = 1000
"""Maximum number of users per storage element for whom a token, or its refusal, is cached."""
REFUSED = 60.0
"""Seconds for which the refusal of a user's token is cached, so that each of many files does not ask the issuer."""
_OF_CLIENT = frozenset({"invalid_client", "unauthorized_client", "unsupported_grant_type"})
"""Errors of RFC 6749 section 5.2 about the client, which concern everybody, as does an answer without an error; the
others are about the user's token."""


class CredentialUnavailable(Exception):
    """No credential is available at the moment; the text states the reason and never contains a credential."""


class CredentialRefused(Exception):
    """The issuer gives no credential on behalf of this user; others may have theirs. The text states the reason."""


class Watched:
    """A file that is read again when it has been replaced."""

    def __init__(self, path: str) -> None:
        """Read nothing yet."""
        self.path = Path(path)
        self._edition: tuple[int, ...] = ()
        self._content = b""

    def changed(self) -> bool:
        """Read the file if it has changed since the last time; return whether it had.

        Raises CredentialUnavailable.
        """
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                edition = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
                if edition == self._edition:
                    return False
                content = file.read().strip()
        except OSError as error:
            raise CredentialUnavailable(f"cannot read {self.path}: {error.strerror}") from error
        if not content:
            raise CredentialUnavailable(f"{self.path} is empty")
        self._content, self._edition = content, edition
        return True

    def text(self) -> str:
        """Return the content, as ASCII. Raises CredentialUnavailable."""
        self.changed()
        try:
            found = self._content.decode("ascii")
        except UnicodeDecodeError as error:
            raise CredentialUnavailable(f"{self.path} is not text") from error
        if any(character <= " " for character in found):
            raise CredentialUnavailable(f"{self.path} has more than one word")
        return found


class Given:
    """A word that never changes, where others are in a file."""

    def __init__(self, word: str) -> None:
        """Keep the word."""
        self._word = word

    def changed(self) -> bool:
        """Return whether it is another than the last time."""
        return False

    def text(self) -> str:
        """Return the word."""
        return self._word


class Bearer:
    """A bearer token; this one is in a file."""

    def __init__(self, file: Watched | Given) -> None:
        """Read nothing yet."""
        self._file = file

    async def token(self, user: str | None) -> str:
        """Return a token for a request, on behalf of the user with the token *user*.

        Raises CredentialUnavailable, and CredentialRefused where that is the user's own matter.
        """
        return self._file.text()

    def forget(self, user: str | None) -> None:
        """Discard a rejected token, so that the next request gets another if possible."""


@dataclass(frozen=True)
class Grantee:
    """An OAuth client at its issuer, and for what it asks there for tokens."""

    issuer: str
    client_id: str
    secret: Watched | Given
    audience: str | None = None
    scope: str | None = None


class Granted(Bearer):
    """A token that an OAuth client gets for itself (client credentials grant)."""

    def __init__(self, grantee: Grantee, client: httpx.AsyncClient) -> None:
        """Ask by *client*."""
        super().__init__(grantee.secret)
        self._client = client
        self._grantee = grantee
        words = {"audience": grantee.audience, "scope": grantee.scope}
        self._wanted = {name: value for name, value in words.items() if value}
        self._credentials: ClientCredentials | None = None

    def _current(self) -> ClientCredentials:
        if self._file.changed() or self._credentials is None:
            self._credentials = ClientCredentials(
                self._grantee.issuer,
                self._grantee.client_id,
                self._file.text(),
                client=self._client,
                wanted=self._wanted,
            )
        return self._credentials

    async def token(self, user: str | None) -> str:
        """Return the client's token."""
        try:
            return await self._current().token()
        except AuthenticationError as error:
            raise CredentialUnavailable(error.description) from error

    def forget(self, user: str | None) -> None:
        """Request another token at the next request."""
        if self._credentials is not None:
            self._credentials.forget()


class Exchanged(Granted):
    """A token exchanged for the user's (RFC 8693), so that the storage element knows the user."""

    def __init__(self, grantee: Grantee, client: httpx.AsyncClient) -> None:
        """Start with an empty cache."""
        super().__init__(grantee, client)
        # By the digest of a user's token: the token it was exchanged for, or why there is none, and until when.
        self._known: dict[bytes, tuple[str, float]] = {}
        self._refused: dict[bytes, tuple[str, float]] = {}
        # A user waits for the own exchange alone.
        self._locks: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()

    async def token(self, user: str | None) -> str:
        """Return the token exchanged for the user's. Raises CredentialUnavailable and CredentialRefused."""
        if user is None:
            raise CredentialUnavailable("there is no token of a user to exchange")
        key = _digest(user)
        if (token := self._cached(key)) is not None:
            return token
        if (lock := self._locks.get(key)) is None:
            self._locks[key] = lock = asyncio.Lock()
        async with lock:
            if (token := self._cached(key)) is not None:
                return token
            return await self._exchange(key, user)

    def _cached(self, key: bytes) -> str | None:
        now = monotonic()
        refused = self._refused.get(key)
        if refused is not None and now < refused[1]:
            raise CredentialRefused(refused[0])
        known = self._known.get(key)
        return known[0] if known is not None and now < known[1] else None

    async def _exchange(self, key: bytes, user: str) -> str:
        form = {
            "grant_type": EXCHANGE,
            "subject_token": user,
            "subject_token_type": ACCESS_TOKEN,
            "requested_token_type": ACCESS_TOKEN,
            **self._wanted,
        }
        asked = monotonic()
        try:
            answer = await self._current().grant(form)
        except GrantRefused as error:
            if error.code is None or error.code in _OF_CLIENT:
                raise CredentialUnavailable(error.description) from error
            _keep(self._refused, key, (error.description, monotonic() + REFUSED))
            raise CredentialRefused(error.description) from error
        except AuthenticationError as error:
            raise CredentialUnavailable(error.description) from error
        token = str(answer["access_token"])
        _keep(self._known, key, (token, asked + 0.8 * lifetime_of(answer)))
        return token

    def forget(self, user: str | None) -> None:
        """Exchange the user's token again at the next request."""
        if user is not None:
            self._known.pop(_digest(user), None)


V = TypeVar("V")


def _keep(cache: dict[bytes, V], key: bytes, value: V) -> None:
    """Add to a cache, and drop what was added first beyond its size."""
    cache.pop(key, None)
    cache[key] = value
    while len(cache) > KEPT:
        del cache[next(iter(cache))]


def _digest(token: str) -> bytes:
    # Keyed by digest, so that a memory dump does not show the user's token.
    return hashlib.sha256(token.encode()).digest()


class Connections:
    """TLS contexts for a storage element: with its CAs, and with a proxy certificate only for its own URLs."""

    def __init__(self, element: StorageElement) -> None:
        """Load the CAs. Raises OSError with the file's name."""
        self._element = element
        self._proxy = Watched(element.credential_file or "") if element.credential == "x509_proxy" else None
        self.plain = self._new()
        self._proven = self.plain

    def _new(self) -> ssl.SSLContext:
        file = self._element.ca_file
        try:
            return ssl.create_default_context(cafile=file)
        except (OSError, ssl.SSLError) as error:
            raise OSError(f"{self._element.name}: ca_file: cannot read {file}: {error}") from error

    def proven(self) -> ssl.SSLContext:
        """Return the context for the storage element itself. Raises CredentialUnavailable."""
        if self._proxy is not None and self._proxy.changed():
            context = self._new()
            try:
                context.load_cert_chain(self._proxy.path)
            except (OSError, ssl.SSLError) as error:
                self._proxy = Watched(str(self._proxy.path))
                raise CredentialUnavailable(f"{self._proxy.path} is not a valid proxy: {error}") from error
            self._proven = context
        return self._proven


def bearer(element: StorageElement, issuer: str, client: httpx.AsyncClient) -> Bearer | None:
    """Return the source of tokens for a storage element, if it uses them; from *issuer*, unless it has its own."""
    file = Watched(element.credential_file or "")
    if element.credential == "token_file":
        return Bearer(file)
    if element.credential in OF_CLIENT:
        kind = Exchanged if element.credential == "token_exchange" else Granted
        grantee = Grantee(
            element.issuer or issuer, element.client_id or "", file, element.audience, element.scope
        )
        return kind(grantee, client)
    return None
