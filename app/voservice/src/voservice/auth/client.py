"""Tokens for the service itself."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping
from time import monotonic
from typing import Any
from urllib.parse import quote_plus

import httpx

from voservice.auth.errors import AuthenticationError, GrantRefused, IssuerUnavailable
from voservice.auth.issuer import Issuer

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
"""The grant of RFC 8693 section 2.1."""
# RFC 6749 section 5.2.
_CODE = re.compile(r"[\x20-\x21\x23-\x5B\x5D-\x7E]{1,80}")
_LIFETIME = 300.0
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - the name of a kind of token


class ClientCredentials:
    """Tokens for the service itself (RFC 6749 section 4.4), renewed before they expire."""

    def __init__(
        self,
        issuer: str,
        client_id: str,
        client_secret: str,
        *,
        client: httpx.AsyncClient,
        wanted: Mapping[str, str] | None = None,
    ) -> None:
        """Use the OAuth client *client_id* at *issuer*; *wanted*: parameters of requests, such as the audience."""
        self.issuer = Issuer(issuer, client)
        self.client = client
        # RFC 6749 section 2.3.1: both are form-encoded in the header.
        self.auth = httpx.BasicAuth(quote_plus(client_id), quote_plus(client_secret))
        self.wanted = dict(wanted or {})
        self._token = ""
        self._renew = self._end = float("-inf")
        self._lock = asyncio.Lock()

    async def endpoint(self) -> str:
        """URL of the issuer's token endpoint."""
        found = (await self.issuer.metadata()).token_endpoint
        if found is None:
            raise AuthenticationError(f"The issuer {self.issuer.url} has no token endpoint")
        return found

    async def token(self) -> str:
        """Return a token that remains valid for a while; a new one is requested before the last one expires."""
        async with self._lock:
            if monotonic() >= self._renew:
                try:
                    await self._obtain()
                except IssuerUnavailable:
                    if monotonic() >= self._end:
                        raise
            return self._token

    def forget(self) -> None:
        """Request a new token at the next use, since this one was rejected."""
        self._renew = self._end = float("-inf")

    async def _obtain(self) -> None:
        asked = monotonic()
        answer = await self.grant({"grant_type": "client_credentials", **self.wanted})
        self._token, lifetime = str(answer["access_token"]), lifetime_of(answer)
        self._renew, self._end = asked + 0.8 * lifetime, asked + lifetime

    async def exchange(self, token: str, lifetime: int) -> str:
        """Exchange a user's *token* for one valid for *lifetime* seconds, if the issuer allows it (RFC 8693)."""
        form = {
            "grant_type": EXCHANGE,
            "subject_token": token,
            "subject_token_type": ACCESS_TOKEN,
            "expires_in": str(lifetime),
        }
        return str((await self.grant(form))["access_token"])

    async def grant(self, form: dict[str, str]) -> dict[str, Any]:
        """Send a request to the token endpoint; errors never contain the request."""
        endpoint = await self.endpoint()
        try:
            answer = await self.client.post(endpoint, data=form, auth=self.auth)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise IssuerUnavailable(f"The issuer {self.issuer.url} is unreachable: {exc}") from exc
        if answer.status_code >= 500 or answer.status_code == 429:
            raise IssuerUnavailable(f"The issuer {self.issuer.url} answers {answer.status_code}")
        try:
            body = answer.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            body = {}
        if not answer.is_success or not isinstance(body.get("access_token"), str):
            code = body.get("error")
            code = code if isinstance(code, str) and _CODE.fullmatch(code) else None
            raise GrantRefused(
                f"The issuer refused {form['grant_type']}: {answer.status_code} {code or 'without a token'}",
                code,
            )
        return body


def lifetime_of(answer: Mapping[str, Any]) -> float:
    """Return for how many seconds the token of a response is valid; 300 if it does not say so."""
    try:
        found = float(answer["expires_in"])
    except (LookupError, TypeError, ValueError, OverflowError):
        return _LIFETIME
    return found if math.isfinite(found) and found >= 0 else _LIFETIME
