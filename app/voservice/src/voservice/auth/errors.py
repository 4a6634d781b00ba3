"""Errors of credentials, in the terms of RFC 6750 section 3."""

from __future__ import annotations

import re

# RFC 6750 section 3 allows these characters alone in error_description.
_NOT_ALLOWED = re.compile(r"[^\x20-\x21\x23-\x5B\x5D-\x7E]")


class AuthenticationError(Exception):
    """The credential is invalid. ``error`` and ``description`` are those of RFC 6750, section 3.

    Without an ``error`` the request had no credential, and the challenge contains only the scheme.
    """

    status = 401

    def __init__(self, description: str, error: str = "invalid_token") -> None:
        """Keep both parts; neither contains the token."""
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


class GrantRefused(AuthenticationError):
    """The issuer's token endpoint refuses a grant; ``code`` is its error of RFC 6749 section 5.2, if it states one."""

    def __init__(self, description: str, code: str | None) -> None:
        """Keep both; neither contains a token."""
        super().__init__(description)
        self.code = code


class IssuerUnavailable(AuthenticationError):
    """The issuer is unavailable, so the credential cannot be verified at the moment."""

    status = 503

    def __init__(self, description: str) -> None:
        """Keep the reason."""
        super().__init__(description, "temporarily_unavailable")

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        return {"Retry-After": "10"}
