"""What users have allowed clients: from a one-time sign-in code to an authorization code to refresh tokens.

Everything is kept in this process, by digests alone: a restart of the issuer asks everybody to sign in again.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

from iam.models.directory import Client
from iam.models.errors import OAuthError

SIGN_IN_LIFETIME = 600
"""Seconds within which a sign-in code must be used."""
CODE_LIFETIME = 60
"""Seconds within which a client must redeem an authorization code."""
MOST = 10_000
VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")
"""A code verifier (RFC 7636 section 4.1)."""
CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")

# Crockford's alphabet, in which no two characters look alike: 16 of them are 80 bits.
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LOOKS_LIKE = str.maketrans("OIL", "011")

T = TypeVar("T")


class Kept(Generic[T]):
    """Values by secrets of which only the digests are kept, each for a limited time."""

    def __init__(self, most: int = MOST) -> None:
        """Keep at most so many values: the oldest is dropped for a new one."""
        self._most = most
        self._kept: OrderedDict[bytes, tuple[float, T]] = OrderedDict()

    def add(self, secret: str, value: T, lifetime: float) -> None:
        """Keep *value* for so many seconds."""
        now = time.monotonic()
        while self._kept and (len(self._kept) >= self._most or next(iter(self._kept.values()))[0] <= now):
            self._kept.popitem(last=False)
        self._kept[_digest(secret)] = (now + lifetime, value)

    def find(self, secret: str) -> T | None:
        """Return the value of a secret; the time that this takes tells nothing of the others."""
        until, value = self._kept.get(_digest(secret), (0.0, None))
        return value if time.monotonic() < until else None

    def take(self, secret: str) -> T | None:
        """Return the value of a secret, which is worth nothing from then on."""
        value = self.find(secret)
        self._kept.pop(_digest(secret), None)
        return value


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A valid request for an authorization (RFC 6749 section 4.1.1, RFC 7636 section 4.3)."""

    client_id: str
    redirect_uri: str
    scope: str
    challenge: str
    nonce: str | None = None


@dataclass(kw_only=True)
class Authorization:
    """What a user has allowed a client, until it ends: `until` and `since` are seconds of the epoch."""

    username: str
    asked: Asked
    since: int
    until: int
    ended: bool = False


@dataclass
class _Use:
    """An authorization by one of its codes or refresh tokens, which serves once."""

    authorization: Authorization
    used: bool = False


class Authorizations:
    """Codes and refresh tokens that are outstanding."""

    def __init__(self, lifetime: int) -> None:
        """Let an authorization last for *lifetime* seconds."""
        self._lifetime = lifetime
        self._sign_in: Kept[str] = Kept()
        self._codes: Kept[_Use] = Kept()
        self._refresh: Kept[_Use] = Kept()

    def sign_in_code(self, username: str) -> str:
        """Return a new code with which *username* can sign in, once."""
        letters = "".join(secrets.choice(_ALPHABET) for _ in range(16))
        self._sign_in.add(letters, username, SIGN_IN_LIFETIME)
        return "-".join(letters[place : place + 4] for place in range(0, 16, 4))

    def sign_in(self, code: str) -> str | None:
        """Return the user whose sign-in code this is, or None; upper case, hyphens and blanks do not matter."""
        return self._sign_in.take(re.sub(r"[\s-]", "", code).upper().translate(_LOOKS_LIKE))

    def authorize(self, username: str, asked: Asked) -> str:
        """Return an authorization code for the client."""
        now = int(time.time())
        code = secrets.token_urlsafe(32)
        authorization = Authorization(username=username, asked=asked, since=now, until=now + self._lifetime)
        self._codes.add(code, _Use(authorization), CODE_LIFETIME)
        return code

    def redeem(self, client: Client, code: str, redirect_uri: str, verifier: str) -> Authorization:
        """Return what a code stands for. Raises `OAuthError`.

        A code serves for one try. One that comes again is in wrong hands, so that what it gave ends too (RFC 6749
        section 4.1.2).
        """
        found = self._once(self._codes, code, "code")
        asked = found.asked
        digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=")
        proven = bool(VERIFIER.fullmatch(verifier)) and secrets.compare_digest(
            digest, asked.challenge.encode()
        )
        if asked.client_id != client.client_id or asked.redirect_uri != redirect_uri or not proven:
            found.ended = True
            raise OAuthError("invalid_grant", "code: of another client, redirect_uri or code_verifier")
        return found

    def refresh_token(self, authorization: Authorization) -> str:
        """Return a refresh token, which serves once."""
        token = secrets.token_urlsafe(32)
        self._refresh.add(token, _Use(authorization), authorization.until - time.time())
        return token

    def refresh(self, client: Client, token: str) -> Authorization:
        """Return what a refresh token stands for. Raises `OAuthError`; one that comes twice ends it."""
        found = self._once(self._refresh, token, "refresh_token")
        if found.asked.client_id != client.client_id:
            found.ended = True
            raise OAuthError("invalid_grant", "refresh_token: of another client")
        return found

    def revoke(self, client: Client, token: str) -> None:
        """End what a refresh token of the client stands for (RFC 7009); one that is unknown has ended already."""
        found = self._refresh.find(token)
        if found is not None and found.authorization.asked.client_id == client.client_id:
            found.authorization.ended = True

    @staticmethod
    def _once(kept: Kept[_Use], secret: str, name: str) -> Authorization:
        found = kept.find(secret)
        if found is not None and found.used:
            found.authorization.ended = True
        if found is None or found.authorization.ended:
            raise OAuthError("invalid_grant", f"{name}: unknown, used or ended; let the user sign in again")
        found.used = True
        return found.authorization


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
