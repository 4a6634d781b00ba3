"""Encryption of what the page keeps, by keys of its own for each purpose."""

from __future__ import annotations

import base64
import json
from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from preparer.config import PreparerSettings


class Seal:
    """Encrypts documents for one purpose; what is sealed for another cannot be opened."""

    def __init__(self, settings: PreparerSettings, purpose: str) -> None:
        """Derive the key from the deployment's, which encrypts users' tokens (RFC 5869)."""
        master = settings.preparer_credential_key.get_secret_value().encode()
        key = HKDF(SHA256(), 32, salt=None, info=f"prepare-data page: {purpose}".encode()).derive(master)
        self._fernet = Fernet(base64.urlsafe_b64encode(key))

    def close(self, document: dict[str, Any]) -> bytes:
        """Encrypt a document."""
        return self._fernet.encrypt(json.dumps(document).encode())

    def open(self, sealed: bytes, age: int | None = None) -> dict[str, Any] | None:
        """Decrypt a document that is at most *age* seconds old; None for anything else."""
        try:
            found: dict[str, Any] = json.loads(self._fernet.decrypt(sealed, age))
        except (InvalidToken, ValueError):
            return None
        return found
