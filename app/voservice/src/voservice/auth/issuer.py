"""An issuer's metadata and keys: fetched at the first use, and cached while the issuer is unavailable."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any

import httpx
import jwt
from pydantic import BaseModel

from voservice.auth.errors import AuthenticationError, IssuerUnavailable

REFRESH_AGE = 6 * 3600
"""Age in seconds from which keys are refreshed."""
STALE_AGE = 48 * 3600
"""Age in seconds up to which cached keys are accepted while the issuer is unavailable."""
REFRESH_INTERVAL = 30
"""Minimum seconds between two fetches, so that unknown key ids cannot cause a flood of requests."""
RETRY_INTERVAL = 1
"""The same while there are no keys at all, since no token can be verified until then."""

# Algorithms of RFC 7518 and RFC 8037 by type and curve of the matching keys. No HMAC: its key would have to be known
# here, and a public key used as the secret would let anyone sign.
ALGORITHMS: dict[str, tuple[str, str | None]] = {
    **{f"{family}{size}": ("RSA", None) for family in ("RS", "PS") for size in (256, 384, 512)},
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}

logger = logging.getLogger(__name__)


class Metadata(BaseModel):
    """The fields that are used of an issuer's discovery document (OpenID Connect Discovery 1.0 section 3)."""

    issuer: str
    jwks_uri: str
    authorization_endpoint: str | None = None
    token_endpoint: str | None = None
    userinfo_endpoint: str | None = None
    revocation_endpoint: str | None = None
    authorization_response_iss_parameter_supported: bool = False


class KeyDocument(BaseModel):
    """A JSON Web Key Set (RFC 7517 section 5)."""

    keys: list[dict[str, Any]]


@dataclass(frozen=True)
class SigningKey:
    """A published key and its use."""

    kid: str | None
    key_type: str
    curve: str | None
    algorithm: str | None
    key: Any

    def fits(self, algorithm: str) -> bool:
        """Return whether signatures of *algorithm* may be verified with this key."""
        key_type, curve = ALGORITHMS[algorithm]
        return (
            self.algorithm in {None, algorithm}
            and self.key_type == key_type
            and (curve is None or self.curve == curve)
        )


def signing_keys(document: Iterable[dict[str, Any]]) -> list[SigningKey]:
    """Yield keys for signatures; keys for other uses and unknown kinds are skipped."""
    found = []
    for entry in document:
        if entry.get("kty") not in {"RSA", "EC", "OKP"} or entry.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(entry).key
        except (jwt.PyJWTError, ValueError, TypeError) as exc:
            logger.warning("A published key is passed over: %s", exc)
            continue
        found.append(SigningKey(entry.get("kid"), entry["kty"], entry.get("crv"), entry.get("alg"), key))
    return found


class Issuer:
    """An OpenID Connect issuer, as its discovery document and key set describe it."""

    def __init__(self, url: str, client: httpx.AsyncClient, key_ids: Iterable[str] = ()) -> None:
        """Use the issuer at *url*, spelled as in the claim ``iss``, through *client*.

        With *key_ids*, only those keys are accepted, whatever it publishes.
        """
        self.url = url
        self.client = client
        self._key_ids = frozenset(key_ids)
        self._metadata: Metadata | None = None
        self._keys: list[SigningKey] = []
        self._fetched = self._tried = float("-inf")
        self._attempts = 0
        self._lock = asyncio.Lock()
        self._renewal: asyncio.Task[None] | None = None

    @property
    def keys(self) -> list[SigningKey]:
        """The cached keys."""
        return self._keys

    @property
    def edition(self) -> float:
        """Number that changes with each fetch of the keys."""
        return self._fetched

    async def metadata(self) -> Metadata:
        """Return the discovery document. Raises ``IssuerUnavailable`` if it cannot be fetched and is not cached."""
        age = monotonic() - self._fetched
        if age > STALE_AGE:
            await self._refresh()
        elif age > REFRESH_AGE and (self._renewal is None or self._renewal.done()):
            # The cached document is usable, so requests do not wait for the issuer.
            self._renewal = asyncio.create_task(self._refresh())
        if self._metadata is None or monotonic() - self._fetched > STALE_AGE:
            raise IssuerUnavailable(f"The issuer {self.url} is unavailable or gives invalid metadata")
        return self._metadata

    async def key(self, kid: str | None, algorithm: str) -> Any:
        """Return the key of that id for *algorithm*, fetching the keys if it is unknown."""
        await self.metadata()
        found = self._find(kid, algorithm)
        if found is None:
            await self._refresh()
            found = self._find(kid, algorithm)
        if found is None:
            raise AuthenticationError("The token is signed with a key that the issuer does not publish")
        return found.key

    def _find(self, kid: str | None, algorithm: str) -> SigningKey | None:
        fitting = [key for key in self._keys if key.fits(algorithm)]
        if kid is not None:
            return next((key for key in fitting if key.kid == kid), None)
        return fitting[0] if len(fitting) == 1 else None

    async def _refresh(self) -> None:
        """Fetch the keys, unless that has just been done; after a failure the cached ones stay."""
        seen = self._attempts
        async with self._lock:
            usable = monotonic() - self._fetched <= STALE_AGE
            interval = REFRESH_INTERVAL if usable else RETRY_INTERVAL
            if self._attempts != seen or monotonic() - self._tried < interval:
                return
            try:
                await self.fetch()
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as exc:
                logger.warning("The issuer %s is unreachable: %s: %s", self.url, type(exc).__name__, exc)
            self._attempts += 1
            self._tried = monotonic()

    async def fetch(self) -> Metadata:
        """Fetch the discovery document and the keys. Raises ``httpx.HTTPError`` or ``ValueError``."""
        answer = await self.client.get(f"{self.url.rstrip('/')}/.well-known/openid-configuration")
        metadata = Metadata.model_validate_json(answer.raise_for_status().content)
        if metadata.issuer != self.url:
            raise ValueError(
                f"it identifies itself as {metadata.issuer!r}; the setting must be spelled the same"
            )
        for endpoint in (
            metadata.jwks_uri,
            metadata.authorization_endpoint,
            metadata.token_endpoint,
            metadata.userinfo_endpoint,
            metadata.revocation_endpoint,
        ):
            if endpoint and self.url.startswith("https:") and not endpoint.startswith("https:"):
                raise ValueError(f"its endpoint {endpoint} is not https")
        answer = await self.client.get(metadata.jwks_uri)
        keys = signing_keys(KeyDocument.model_validate_json(answer.raise_for_status().content).keys)
        if self._key_ids:
            keys = [key for key in keys if key.kid in self._key_ids]
        if not keys:
            raise ValueError(
                f"it publishes no key for signatures{' that is expected' if self._key_ids else ''}"
            )
        self._metadata, self._keys, self._fetched = metadata, keys, monotonic()
        return metadata
