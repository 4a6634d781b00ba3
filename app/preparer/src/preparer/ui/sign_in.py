"""Signing in at the issuer (OpenID Connect Core 1.0 section 3.1, with PKCE as RFC 9700 section 2.1.1 wants it).

What belongs to an attempt is in an encrypted cookie of the browser that made it, so that nobody is signed in by a link
of somebody else's: the answer must have the state that this browser was sent away with, and the ID token its nonce.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus, unquote, urlencode, urlsplit

import httpx
import jwt
from voservice.auth import AuthenticationError, ClientCredentials, Identity, IssuerUnavailable, TokenVerifier
from voservice.auth.client import lifetime_of

from preparer.config import PreparerSettings
from preparer.ui.sealing import Seal
from preparer.ui.sessions import Tokens

PATIENCE = 600
"""Seconds that a user may take at the issuer."""
LEEWAY = 60
LONGEST_PLACE = 2000
logger = logging.getLogger(__name__)


class SignInFailed(Exception):
    """The user is not signed in; the text says why, and what to do."""


@dataclass(frozen=True)
class Leaving:
    """Where the browser goes, and what it keeps meanwhile."""

    url: str
    cookie: str


def own_place(place: str) -> str:
    """Return *place* if it is a path of the page, relative to it, with a slash in front; or else the page itself."""
    try:
        parts = urlsplit(place)
        segments = unquote(parts.path).split("/")
    except ValueError:
        return "/"
    good = (
        place.isascii()
        and place.isprintable()
        and len(place) <= LONGEST_PLACE
        and not (parts.scheme or parts.netloc or parts.fragment)
        and place.startswith("/")
        and not place.startswith("//")
        and "\\" not in unquote(place)
        and not {".", ".."} & set(segments)
    )
    return place if good else "/"


class SignIn:
    """The page as a client of the issuer."""

    def __init__(
        self, settings: PreparerSettings, verifier: TokenVerifier, client: httpx.AsyncClient, url: str
    ) -> None:
        """Serve the page at *url*, with the tokens that *verifier* accepts."""
        self._settings = settings
        self._verifier = verifier
        self._issuer = verifier.issuer
        self._http = client
        self._id = settings.preparer_page_client_id
        secret = settings.preparer_page_client_secret.get_secret_value()
        self._client = ClientCredentials(self._issuer.url, self._id, secret, client=client)
        self._auth = httpx.BasicAuth(quote_plus(self._id), quote_plus(secret))
        self._seal = Seal(settings, "sign-in")
        self.redirect_uri = f"{url}/signed-in"

    async def leave(self, place: str) -> Leaving:
        """Begin to sign in a user who wants to come back to *place*. Raises `IssuerUnavailable` or `SignInFailed`."""
        endpoint = (await self._issuer.metadata()).authorization_endpoint
        if endpoint is None:
            raise SignInFailed(f"The issuer {self._issuer.url} has no authorization endpoint")
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=")
        query = {
            "response_type": "code",
            "client_id": self._id,
            "redirect_uri": self.redirect_uri,
            "scope": self._settings.preparer_page_scope,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge.decode(),
            "code_challenge_method": "S256",
        }
        if self._settings.preparer_page_audience:
            query["audience"] = self._settings.preparer_page_audience
        kept = {"state": state, "nonce": nonce, "verifier": verifier, "place": own_place(place)}
        separator = "&" if urlsplit(endpoint).query else "?"
        return Leaving(f"{endpoint}{separator}{urlencode(query)}", self._seal.close(kept).decode())

    async def arrive(self, cookie: str | None, answer: Mapping[str, str]) -> tuple[Identity, Tokens, str]:
        """Return the user whom an answer of the issuer signs in, their tokens, and where they wanted to go.

        Raises `SignInFailed`, or `IssuerUnavailable`.
        """
        kept = self._seal.open((cookie or "").encode(), PATIENCE)
        if kept is None:
            raise SignInFailed("This sign-in was begun in another browser, or too long ago. Sign in again.")
        if not hmac.compare_digest(answer.get("state", "").encode(), str(kept["state"]).encode()):
            raise SignInFailed("This answer belongs to another sign-in. Sign in again.")
        await self._check_source(answer)
        if "error" in answer:
            told = answer.get("error_description") or answer["error"]
            raise SignInFailed(f"The issuer refused: {told[:300]}")
        if not answer.get("code"):
            raise SignInFailed("The issuer's answer has no code. Sign in again.")
        form = {
            "grant_type": "authorization_code",
            "code": answer["code"],
            "redirect_uri": self.redirect_uri,
            "code_verifier": str(kept["verifier"]),
        }
        try:
            granted = await self._client.grant(form)
            subject = await self._subject(granted.get("id_token"), str(kept["nonce"]))
            tokens = _tokens(granted)
            identity = await self._verifier.verify(tokens.access)
        except IssuerUnavailable:
            raise
        except AuthenticationError as exc:
            raise SignInFailed(f"{exc.description}. Sign in again, or tell the operator.") from exc
        if identity.subject != subject:
            raise SignInFailed("The issuer's tokens are of different users")
        return identity, tokens, own_place(str(kept["place"]))

    async def refresh(self, tokens: Tokens) -> Tokens | None:
        """Return new tokens, or None if the user must sign in again. Raises `IssuerUnavailable`."""
        if tokens.refresh is None:
            return None
        try:
            granted = await self._client.grant(
                {"grant_type": "refresh_token", "refresh_token": tokens.refresh}
            )
        except IssuerUnavailable:
            raise
        except AuthenticationError:
            return None
        return _tokens(granted, tokens.refresh)

    async def revoke(self, tokens: Tokens) -> None:
        """Tell the issuer that the user has signed out, if it can be told (RFC 7009)."""
        if tokens.refresh is None:
            return
        with suppress(IssuerUnavailable):
            endpoint = (await self._issuer.metadata()).revocation_endpoint
            if endpoint is None:
                return
            form = {"token": tokens.refresh, "token_type_hint": "refresh_token"}
            try:
                answer = await self._http.post(endpoint, data=form, auth=self._auth)
            except (httpx.HTTPError, httpx.InvalidURL) as exc:
                logger.warning("A refresh token is not revoked: %s", type(exc).__name__)
                return
            if not answer.is_success:
                logger.warning("A refresh token is not revoked: the issuer answers %d", answer.status_code)

    async def _check_source(self, answer: Mapping[str, str]) -> None:
        """Refuse an answer of another issuer (RFC 9207)."""
        expected = (await self._issuer.metadata()).authorization_response_iss_parameter_supported
        if answer.get("iss", None if expected else self._issuer.url) != self._issuer.url:
            raise SignInFailed("This answer is not from the issuer that was asked. Sign in again.")

    async def _subject(self, token: Any, nonce: str) -> str:
        """Return the subject of an ID token (OpenID Connect Core 1.0 section 3.1.3.7). Raises `AuthenticationError`."""
        if not isinstance(token, str):
            raise AuthenticationError("The issuer's answer has no ID token")
        try:
            header = jwt.get_unverified_header(token)
            algorithm = header.get("alg")
            if (
                algorithm not in self._settings.oidc_algorithms
                or str(header.get("typ", "JWT")).upper() != "JWT"
            ):
                raise AuthenticationError("The ID token is signed with an algorithm that is not accepted")
            claims: dict[str, Any] = jwt.decode(
                token,
                await self._issuer.key(header.get("kid"), algorithm),
                algorithms=[algorithm],
                audience=self._id,
                issuer=self._issuer.url,
                leeway=LEEWAY,
                options={"require": ["exp", "iat", "iss", "sub", "aud", "nonce"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as exc:
            raise AuthenticationError("The ID token is not valid") from exc
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if claims.get("azp", None if several else self._id) != self._id:
            raise AuthenticationError("The ID token is meant for another client")
        if not hmac.compare_digest(str(claims["nonce"]).encode(), nonce.encode()):
            raise AuthenticationError("The ID token belongs to another sign-in")
        return str(claims["sub"])


def _tokens(granted: Mapping[str, Any], former: str | None = None) -> Tokens:
    refresh = granted.get("refresh_token", former)
    return Tokens(
        access=str(granted["access_token"]),
        expires=time.time() + lifetime_of(granted),
        refresh=refresh if isinstance(refresh, str) else None,
    )
