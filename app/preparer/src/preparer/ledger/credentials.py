"""Users' tokens at rest: encrypted, and kept only as long as they are needed."""

from __future__ import annotations

from cryptography.fernet import Fernet, InvalidToken

from preparer.config import PreparerSettings


class CredentialLost(Exception):
    """The stored credential cannot be decrypted: the key has changed, or nothing is stored."""


class Vault:
    """Encrypts and decrypts tokens with the deployment's key."""

    def __init__(self, settings: PreparerSettings) -> None:
        """Use the key of *settings*."""
        try:
            self._fernet = Fernet(settings.preparer_credential_key.get_secret_value())
        except ValueError as exc:
            raise SystemExit(
                "preparer_credential_key: must be a Fernet key, 32 bytes in URL-safe base64"
            ) from exc

    def encrypt(self, token: str) -> bytes:
        """Encrypt a token."""
        return self._fernet.encrypt(token.encode())

    def decrypt(self, stored: bytes | None) -> str:
        """Decrypt a token. Raises `CredentialLost`."""
        if stored is None:
            raise CredentialLost("no credential is kept for this task")
        try:
            return self._fernet.decrypt(stored).decode()
        except InvalidToken as exc:
            raise CredentialLost("the stored credential cannot be read with the present key") from exc
