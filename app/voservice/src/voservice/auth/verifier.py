"""Turns bearer tokens into identities."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import jwt

from voservice.auth.errors import AuthenticationError, IssuerUnavailable
from voservice.auth.identity import USERNAME, Identity
from voservice.auth.issuer import ALGORITHMS, Issuer

if TYPE_CHECKING:
    # It knows the algorithms from here.
    from voservice.config import ServiceSettings

START_LEEWAY = 60
"""Seconds that an issuer's clock may be ahead (``nbf``, ``iat``; WLCG token profile)."""
EXPIRY_LEEWAY = 5
"""Seconds for which a token is accepted after its expiry."""
LONGEST_TOKEN = 16_384
KEPT_TOKENS = 10_000

ACCESS_TYPE = "at+jwt"
OTHER_USES = frozenset({"nonce", "at_hash", "c_hash", "s_hash", "events"})
"""Claims of ID tokens (OpenID Connect Core 1.0 sections 2 and 3.3.2.11) and of logout tokens."""
GROUP_CLAIMS = ("groups", "wlcg.groups")


class CachedToken(NamedTuple):
    """Cached result of verifying a token.

    ``edition`` is that of the issuer's key set, ``until`` the expiry in seconds of the epoch.
    """

    edition: float
    until: float
    identity: Identity


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
        key_ids: Iterable[str] = (),
        clients: Iterable[str] = (),
    ) -> None:
        """Accept tokens of *issuer* for one of *audiences*.

        Those of *clients*, OAuth clients that act as themselves, need no user name: their id stands for it.
        """
        self.algorithms = ["RS256", "ES256"] if algorithms is None else algorithms
        if unknown := set(self.algorithms) - set(ALGORITHMS):
            raise ValueError(f"not a public-key signature algorithm: {', '.join(sorted(unknown))}")
        self.audiences = audiences
        self.require_audience = require_audience
        self.issuer = Issuer(issuer, client, key_ids)
        self._clients = frozenset(clients)
        self._kept: OrderedDict[bytes, CachedToken] = OrderedDict()

    @classmethod
    def of(
        cls, settings: ServiceSettings, client: httpx.AsyncClient, clients: Iterable[str] = ()
    ) -> TokenVerifier:
        """Create a verifier from the service's *settings*, with *clients* that act as themselves."""
        return cls(
            settings.oidc_issuer,
            settings.oidc_audiences,
            client=client,
            algorithms=settings.oidc_algorithms,
            require_audience=settings.oidc_require_audience,
            key_ids=settings.oidc_key_ids,
            clients=clients,
        )

    async def verify(self, token: str) -> Identity:
        """Verify signature, issuer, audience and times of *token*, and return the caller's identity.

        The result is cached until the token expires or the issuer's keys are refreshed.
        """
        # Keyed by digest, so that a memory dump contains no usable tokens.
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        kept = self._kept.get(digest)
        if kept and time.time() < kept.until:
            await self.issuer.metadata()
            if kept.edition == self.issuer.edition:
                return kept.identity
        claims, expires = await self._claims(token)
        edition = self.issuer.edition
        username = claims.get("preferred_username") or self._client(claims)
        if not username:
            # The issuer may omit names from access tokens. The subject is no substitute: it cannot name a directory.
            userinfo = await self._ask(token, claims)
            username = userinfo.get("preferred_username")
            claims |= {
                name: userinfo[name] for name in GROUP_CLAIMS if name in userinfo and name not in claims
            }
        if not isinstance(username, str) or not USERNAME.match(username):
            raise AuthenticationError("The token names no user (claim preferred_username) that can own files")
        identity = Identity(
            username=username,
            subject=claims["sub"],
            issuer=self.issuer.url,
            groups=_groups(claims),
            expires=expires,
            claims=claims,
        )
        self._kept[digest] = CachedToken(edition, expires.timestamp(), identity)
        while len(self._kept) > KEPT_TOKENS:
            self._kept.popitem(last=False)
        return identity

    def _client(self, claims: dict[str, Any]) -> str | None:
        """Return the client that a token was granted to for itself: its id is the subject (RFC 9068 section 2.2)."""
        subject: str = claims["sub"]
        return subject if subject == client_of(claims) and subject in self._clients else None

    async def _claims(self, token: str) -> tuple[dict[str, Any], datetime]:
        """Return the verified claims of the token and its expiry."""
        if len(token) > LONGEST_TOKEN:
            raise AuthenticationError(f"The token is longer than {LONGEST_TOKEN} characters")
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError) as exc:
            raise AuthenticationError("The token is not a JSON web token") from exc
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in self.algorithms:
            raise AuthenticationError(f"The token's algorithm is not one of {', '.join(self.algorithms)}")
        kind = header.get("typ", "JWT")
        if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in (ACCESS_TYPE, "jwt"):
            raise AuthenticationError("The token's type (typ) is not that of an access token")
        key = await self.issuer.key(header.get("kid"), algorithm)
        required = ["exp", "iss", "sub", *(["aud"] if self.require_audience else [])]
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                issuer=self.issuer.url,
                leeway=START_LEEWAY,
                options={
                    "require": required,
                    # Both are checked below: the first has a leeway of its own, the second is optional by setting.
                    "verify_exp": False,
                    "verify_aud": False,
                    "enforce_minimum_key_length": True,
                },
            )
        except jwt.InvalidIssuerError as exc:
            raise AuthenticationError(f"The token is not from {self.issuer.url}") from exc
        except jwt.ImmatureSignatureError as exc:
            raise AuthenticationError("The token is not valid yet") from exc
        except jwt.MissingRequiredClaimError as exc:
            raise AuthenticationError(f"The token lacks the claim {exc.claim}") from exc
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as exc:
            raise AuthenticationError("The token's signature or claims are not valid") from exc
        if not claims["sub"]:
            raise AuthenticationError("The token lacks the claim sub")
        self._check_audience(claims.get("aud"))
        if not kind.lower().endswith(ACCESS_TYPE):
            _check_use(claims)
        return claims, _expiry(claims["exp"])

    def _check_audience(self, claim: Any) -> None:
        if claim is None:
            return
        names = [claim] if isinstance(claim, str) else claim
        if not isinstance(names, list) or not any(name in self.audiences for name in names):
            raise AuthenticationError("The token is meant for another audience")

    async def _ask(self, token: str, claims: dict[str, Any]) -> dict[str, Any]:
        """Query the issuer's userinfo endpoint."""
        endpoint = (await self.issuer.metadata()).userinfo_endpoint
        if not endpoint:
            return {}
        try:
            answer = await self.issuer.client.get(endpoint, headers={"Authorization": f"Bearer {token}"})
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise IssuerUnavailable(f"The issuer {self.issuer.url} does not answer") from exc
        if answer.status_code >= 500 or answer.status_code == 429:
            raise IssuerUnavailable(f"The issuer {self.issuer.url} answers {answer.status_code}")
        try:
            info = answer.json() if answer.is_success else None
        except ValueError:
            info = None
        if not isinstance(info, dict):
            raise AuthenticationError("The issuer does not say which user the token belongs to")
        if info.get("sub") != claims["sub"]:
            raise AuthenticationError("The issuer's answer is about another user than the token")
        return info


def _check_use(claims: dict[str, Any]) -> None:
    """Reject tokens that are evidently not access tokens, if the header does not identify them (RFC 9068 section 2.1).

    Some issuers use a claim: Keycloak ``typ``, with access tokens that may have a nonce; Cognito ``token_use``. INDIGO
    IAM has none.
    """
    said = claims.get("typ", claims.get("token_use"))
    if said is not None:
        good = isinstance(said, str) and said.lower() in ("bearer", "access")
    else:
        good = OTHER_USES.isdisjoint(claims)
    if not good:
        raise AuthenticationError("The token is not an access token")


def client_of(claims: Mapping[str, Any]) -> Any:
    """Return the OAuth client that a token was granted to (RFC 9068), or else for (Keycloak; OpenID Connect)."""
    return claims.get("client_id", claims.get("azp"))


def _expiry(claim: Any) -> datetime:
    """Return the time of the claim ``exp``, if it is not past."""
    if isinstance(claim, bool) or not isinstance(claim, int | float):
        raise AuthenticationError("The token's expiry is not a number")
    try:
        moment = datetime.fromtimestamp(claim, UTC)
    except (ValueError, OverflowError, OSError) as exc:
        raise AuthenticationError("The token's expiry is not a moment in time") from exc
    if time.time() >= claim + EXPIRY_LEEWAY:
        raise AuthenticationError("The token has expired")
    return moment


def _groups(claims: dict[str, Any]) -> frozenset[str]:
    """Return names of groups, without the leading slash of the WLCG profile."""
    for name in GROUP_CLAIMS:
        groups = claims.get(name)
        if isinstance(groups, list) and groups:
            return frozenset(group.removeprefix("/") for group in groups if isinstance(group, str))
    return frozenset()


def bearer(authorization: list[str]) -> str | None:
    """Return the token of the Authorization header, or None without one (RFC 6750 section 2.1)."""
    if not authorization:
        return None
    if len(authorization) > 1:
        raise AuthenticationError("Send one Authorization header", "invalid_request")
    scheme, _, token = authorization[0].partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise AuthenticationError("The Authorization header must be: Bearer <token>", "invalid_request")
    return token.strip()
