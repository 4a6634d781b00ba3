"""Errors of credentials, in the terms of RFC 6750 section 3."""

from __future__ import annotations

import re

# RFC 6750 section 3 allows these characters alone in error_description.
_NOT_ALLOWED = re.compile(r"[^\x20-\x21\x23-\x5B\x5D-\x7E]")


class AuthenticationError(Exception):
    """The credential is not good. ``error`` and ``description`` are those of RFC 6750, section 3.

    Without an ``error`` the request carried no credential at all, and the challenge says no more than the scheme.
    """

    status = 401

    def __init__(self, description: str, error: str = "invalid_token") -> None:
        """Keep both parts; neither ever holds the token."""
        super().__init__(description)
        self.error = error
        self.description = description

    @property
    def challenge(self) -> str:
        """Value of the WWW-Authenticate header."""
        if not self.error:
            return "Bearer"
        description = _NOT_ALLOWED.sub("'", self.description)
        return f'Bearer error="{self.error}", error_description="{description}"'

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        return {"WWW-Authenticate": self.challenge}


class IssuerUnavailable(AuthenticationError):
    """The issuer cannot be asked, so that nothing can be said of the credential: come back later."""

    status = 503

    def __init__(self, description: str) -> None:
        """Say what cannot be had."""
        super().__init__(description, "temporarily_unavailable")

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        return {"Retry-After": "10"}
