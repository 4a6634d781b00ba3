"""Bearer tokens: verification by the issuer's keys, and tokens for the service itself.

Follows RFC 7519, RFC 6750 and OpenID Connect Discovery 1.0; the choices among them are those of the WLCG token profile:
an allow-list of algorithms, an exact issuer, a required expiry, keys that stay usable while the issuer is away.
"""

from voservice.auth.client import ACCESS_TOKEN, EXCHANGE, ClientCredentials
from voservice.auth.errors import AuthenticationError, GrantRefused, IssuerUnavailable
from voservice.auth.identity import GROUP, USERNAME, Identity
from voservice.auth.issuer import ALGORITHMS, Issuer
from voservice.auth.verifier import GROUP_CLAIMS, TokenVerifier, bearer, client_of

__all__ = [
    "ACCESS_TOKEN",
    "ALGORITHMS",
    "EXCHANGE",
    "GROUP",
    "GROUP_CLAIMS",
    "USERNAME",
    "AuthenticationError",
    "ClientCredentials",
    "GrantRefused",
    "Identity",
    "Issuer",
    "IssuerUnavailable",
    "TokenVerifier",
    "bearer",
    "client_of",
]
