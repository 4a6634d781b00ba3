"""Access tokens: signed JSON web tokens (RFC 9068 in spirit, the claims of INDIGO IAM in letter)."""

from __future__ import annotations

import base64
import hashlib
import json
import time
import uuid
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

ALGORITHM = "RS256"
ACCESS_TYPE = "at+jwt"
SMALLEST_KEY = 2048


def _base64(number: int) -> str:
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Signer:
    """Creates and verifies the tokens of one issuer."""

    def __init__(self, issuer: str, pem: str) -> None:
        """Sign as *issuer* with the RSA key in *pem*."""
        try:
            key = load_pem_private_key(pem.encode(), None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
            raise SystemExit("iam_signing_key: not an unencrypted private key in PEM") from exc
        if not isinstance(key, RSAPrivateKey) or key.key_size < SMALLEST_KEY:
            raise SystemExit(f"iam_signing_key: the key must be an RSA key of {SMALLEST_KEY} bits or more")
        self.issuer = issuer
        self.key = key
        numbers = key.public_key().public_numbers()
        public = {"e": _base64(numbers.e), "kty": "RSA", "n": _base64(numbers.n)}
        # The key's id is its thumbprint (RFC 7638), so that it changes with the key.
        canonical = json.dumps(public, sort_keys=True, separators=(",", ":")).encode()
        self.kid = base64.urlsafe_b64encode(hashlib.sha256(canonical).digest()).rstrip(b"=").decode()
        self.jwks = {"keys": [{**public, "kid": self.kid, "use": "sig", "alg": ALGORITHM}]}

    def subject(self, username: str) -> str:
        """Stable identifier of a user."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self.issuer}#{username}"))

    def issue(
        self,
        username: str,
        groups: list[str],
        client_id: str,
        audience: str | list[str],
        lifetime: int,
        scope: str,
    ) -> str:
        """Return a token for *username*, valid for *lifetime* seconds; with groups if *scope* contains ``groups``."""
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": self.subject(username),
            "aud": audience,
            "iat": now,
            "nbf": now,
            "exp": now + lifetime,
            "jti": str(uuid.uuid4()),
            "client_id": client_id,
            "scope": scope,
            "preferred_username": username,
        }
        if "groups" in scope.split():
            claims["groups"] = groups
        return jwt.encode(claims, self.key, ALGORITHM, headers={"kid": self.kid, "typ": ACCESS_TYPE})

    def identify(
        self, username: str, client_id: str, signed_in: int, lifetime: int, nonce: str | None
    ) -> str:
        """Return an ID token (OpenID Connect Core 1.0 section 2): who signed in at *signed_in*, told to a client."""
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": self.subject(username),
            "aud": client_id,
            "iat": now,
            "exp": now + lifetime,
            "auth_time": signed_in,
            "preferred_username": username,
            **({} if nonce is None else {"nonce": nonce}),
        }
        return jwt.encode(claims, self.key, ALGORITHM, headers={"kid": self.kid})

    def read(self, token: str) -> dict[str, Any]:
        """Return the claims of this issuer's own access token. Raises ``jwt.PyJWTError`` for any other."""
        if jwt.get_unverified_header(token).get("typ") != ACCESS_TYPE:
            raise jwt.InvalidTokenError("not an access token")
        claims: dict[str, Any] = jwt.decode(
            token,
            self.key.public_key(),
            algorithms=[ALGORITHM],
            issuer=self.issuer,
            options={"require": ["exp", "iss", "sub", "preferred_username"], "verify_aud": False},
        )
        return claims
