"""Bearer tokens: verification by the issuer's keys, and tokens for the service itself.

Follows RFC 7519, RFC 6750 and OpenID Connect Discovery 1.0; the choices among them are those of the WLCG token profile:
an allow-list of algorithms, an exact issuer, a required expiry, keys that stay usable while the issuer is away.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import httpx
import jwt

USERNAME = re.compile(r"^(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}\Z")
LEEWAY = 10
REFRESH_AGE = 6 * 3600
STALE_AGE = 48 * 3600
REFRESH_INTERVAL = 30


class AuthenticationError(Exception):
    """The credential is not good. ``error`` and ``description`` are those of RFC 6750, section 3."""

    def __init__(self, description: str, error: str = "invalid_token") -> None:
        """Keep both parts; neither ever holds the token."""
        super().__init__(description)
        self.error = error
        self.description = description

    @property
    def challenge(self) -> str:
        """Value of the WWW-Authenticate header."""
        return f'Bearer error="{self.error}", error_description="{self.description}"'


class IssuerUnavailable(AuthenticationError):
    """The issuer's keys cannot be had, so that no token can be judged."""


@dataclass(frozen=True)
class Identity:
    """Who is calling, as far as a verified credential says."""

    username: str
    subject: str
    issuer: str
    groups: frozenset[str] = frozenset()
    method: Literal["token", "certificate"] = "token"
    expires: datetime | None = None
    claims: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


class KeySet:
    """The issuer's metadata and keys: fetched once by whoever comes first, kept while the issuer is away."""

    def __init__(self, issuer: str, client: httpx.AsyncClient) -> None:
        """Serve the keys of *issuer*."""
        self.issuer = issuer
        self.client = client
        self.metadata: dict[str, Any] = {}
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = float("-inf")
        self._tried = float("-inf")
        self._lock = asyncio.Lock()

    async def key(self, kid: str | None) -> jwt.PyJWK:
        """Return the key of that id, asking the issuer if it is unknown or the keys are old."""
        age = time.monotonic() - self._fetched
        if age > REFRESH_AGE or (kid not in self._keys and not (kid is None and len(self._keys) == 1)):
            await self.refresh()
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        if kid in self._keys:
            return self._keys[kid]
        raise AuthenticationError("The token is signed with a key that the issuer does not publish")

    async def refresh(self) -> None:
        """Fetch metadata and keys; a failure is forgiven while the old keys may still be used."""
        seen = self._tried
        async with self._lock:
            if self._tried != seen or time.monotonic() - self._tried < REFRESH_INTERVAL:
                if not self._keys and self._tried == seen:
                    await self._fetch()
                return
            await self._fetch()

    async def _fetch(self) -> None:
        self._tried = time.monotonic()
        try:
            answer = await self.client.get(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
            metadata = answer.raise_for_status().json()
            if metadata.get("issuer") != self.issuer:
                raise ValueError(f"the issuer calls itself {metadata.get('issuer')!r}")
            keys = (await self.client.get(metadata["jwks_uri"])).raise_for_status().json()["keys"]
            self._keys = {
                k.get("kid"): jwt.PyJWK(k)
                for k in keys
                if k.get("kty") in {"RSA", "EC"} and k.get("use", "sig") == "sig"
            }
            self.metadata = metadata
            self._fetched = time.monotonic()
        except (httpx.HTTPError, ValueError, KeyError, jwt.PyJWTError) as exc:
            if time.monotonic() - self._fetched > STALE_AGE:
                raise IssuerUnavailable(
                    f"The keys of {self.issuer} cannot be read: {exc}", "temporarily_unavailable"
                ) from exc


class TokenVerifier:
    """Turns bearer tokens into identities."""

    def __init__(
        self,
        issuer: str,
        audiences: list[str],
        *,
        client: httpx.AsyncClient,
        algorithms: list[str] | None = None,
        require_audience: bool = True,
    ) -> None:
        """Accept tokens of *issuer* meant for one of *audiences*."""
        self.issuer = issuer
        self.audiences = audiences
        self.algorithms = [
            name for name in algorithms or ["RS256", "ES256"] if not name.startswith("HS") and name != "none"
        ]
        self.require_audience = require_audience
        self.client = client
        self.keys = KeySet(issuer, client)
        self._userinfo: OrderedDict[str, tuple[float, dict[str, Any]]] = OrderedDict()

    async def verify(self, token: str) -> Identity:
        """Verify signature, issuer, audience and times of *token* and say who presents it."""
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError as exc:
            raise AuthenticationError("The token is not a JSON web token") from exc
        if header.get("alg") not in self.algorithms:
            raise AuthenticationError(f"The token's algorithm is not one of {', '.join(self.algorithms)}")
        key = await self.keys.key(header.get("kid"))
        required = ["exp", "iss", "sub"] + (["aud"] if self.require_audience else [])
        try:
            claims = jwt.decode(
                token,
                key.key,
                algorithms=self.algorithms,
                issuer=self.issuer,
                leeway=LEEWAY,
                options={"require": required, "verify_aud": False},
            )
        except jwt.ExpiredSignatureError as exc:
            raise AuthenticationError("The token has expired") from exc
        except jwt.InvalidIssuerError as exc:
            raise AuthenticationError(f"The token is not from {self.issuer}") from exc
        except jwt.MissingRequiredClaimError as exc:
            raise AuthenticationError(f"The token lacks the claim {exc.claim}") from exc
        except jwt.PyJWTError as exc:
            raise AuthenticationError("The token's signature or claims are not valid") from exc
        self._check_audience(claims.get("aud"))
        username = claims.get("preferred_username")
        if not username:
            username = (await self._ask(token, claims)).get("preferred_username")
        if not isinstance(username, str) or not USERNAME.match(username):
            raise AuthenticationError("The token names no user (claim preferred_username) that can own files")
        groups = claims.get("groups") or claims.get("wlcg.groups") or []
        return Identity(
            username=username,
            subject=str(claims["sub"]),
            issuer=self.issuer,
            groups=frozenset(str(group).removeprefix("/") for group in groups if isinstance(group, str)),
            expires=datetime.fromtimestamp(claims["exp"], UTC),
            claims=claims,
        )

    def _check_audience(self, claim: Any) -> None:
        if claim is None:
            return
        names = [claim] if isinstance(claim, str) else claim
        if not isinstance(names, list) or not set(names) & set(self.audiences):
            raise AuthenticationError("The token is meant for another audience")

    async def _ask(self, token: str, claims: dict[str, Any]) -> dict[str, Any]:
        """Ask the issuer's userinfo endpoint, remembering the answer until the token expires."""
        digest = hashlib.sha256(token.encode()).hexdigest()
        kept = self._userinfo.get(digest)
        if kept and kept[0] > time.time():
            return kept[1]
        endpoint = self.keys.metadata.get("userinfo_endpoint")
        if not endpoint:
            return {}
        try:
            answer = await self.client.get(endpoint, headers={"Authorization": f"Bearer {token}"})
            info: dict[str, Any] = answer.raise_for_status().json()
        except (httpx.HTTPError, ValueError) as exc:
            raise AuthenticationError("The issuer does not say which user the token belongs to") from exc
        if info.get("sub") != claims["sub"]:
            raise AuthenticationError("The issuer's answer is about another user than the token")
        self._userinfo[digest] = (float(claims["exp"]), info)
        while len(self._userinfo) > 10_000:
            self._userinfo.popitem(last=False)
        return info


def bearer(authorization: list[str]) -> str | None:
    """Token of the Authorization headers, or None without any; RFC 6750 section 2.1."""
    if not authorization:
        return None
    if len(authorization) > 1:
        raise AuthenticationError("Send one Authorization header", "invalid_request")
    scheme, _, token = authorization[0].partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise AuthenticationError("The Authorization header must be: Bearer <token>", "invalid_request")
    return token.strip()


class ClientCredentials:
    """Tokens for the service itself (RFC 6749 section 4.4), renewed before they expire."""

    def __init__(self, issuer: str, client_id: str, client_secret: str, *, client: httpx.AsyncClient) -> None:
        """Use the OAuth client *client_id* at *issuer*."""
        self.keys = KeySet(issuer, client)
        self.client = client
        self.auth = httpx.BasicAuth(client_id, client_secret)
        self._token = ""
        self._renew = 0.0
        self._lock = asyncio.Lock()

    async def endpoint(self) -> str:
        """URL of the issuer's token endpoint."""
        if not self.keys.metadata:
            await self.keys.refresh()
        return str(self.keys.metadata["token_endpoint"])

    async def token(self) -> str:
        """Return a token that is good for some time yet."""
        async with self._lock:
            if time.monotonic() >= self._renew:
                answer = await self.grant({"grant_type": "client_credentials"})
                self._token = answer["access_token"]
                self._renew = time.monotonic() + max(1.0, 0.8 * float(answer.get("expires_in", 300)))
            return self._token

    async def exchange(self, token: str, lifetime: int) -> str:
        """Exchange a user's *token* for one that lives *lifetime* seconds, if the issuer allows it (RFC 8693)."""
        answer = await self.grant(
            {
                "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
                "subject_token": token,
                "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
                "expires_in": str(lifetime),
            }
        )
        return str(answer["access_token"])

    async def grant(self, form: dict[str, str]) -> dict[str, Any]:
        """Ask the token endpoint; the error never shows what was sent."""
        try:
            answer = await self.client.post(await self.endpoint(), data=form, auth=self.auth)
            if answer.status_code != 200:
                try:
                    reason = answer.json().get("error", "")
                except ValueError:
                    reason = ""
                raise AuthenticationError(
                    f"The issuer refused {form['grant_type']}: {answer.status_code} {reason}"
                )
            result: dict[str, Any] = answer.json()
        except httpx.HTTPError as exc:
            raise IssuerUnavailable(f"The issuer cannot be asked: {exc}", "temporarily_unavailable") from exc
        return result
