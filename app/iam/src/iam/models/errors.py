"""Errors of the issuer."""

from __future__ import annotations


class OAuthError(Exception):
    """An error of the token endpoint (RFC 6749 section 5.2)."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        """Keep the code, what to do about it, and the HTTP status."""
        super().__init__(description)
        self.error, self.description, self.status = error, description, status
