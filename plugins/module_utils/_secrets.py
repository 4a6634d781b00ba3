# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets of a deployment: names, generation and validation.

Private to the collection.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import secrets
import string
from collections.abc import Callable
from typing import Any

try:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
except ImportError:
    HAS_CRYPTOGRAPHY = False
else:
    HAS_CRYPTOGRAPHY = True


def _password() -> str:
    alphabet = string.ascii_letters + string.digits
    return "".join(secrets.choice(alphabet) for _unused in range(40))


def _hex_key() -> str:
    return secrets.token_hex(32)


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def _rsa_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _check_text(value: str) -> str | None:
    if not value or any(character.isspace() for character in value):
        return "must not be empty or contain white space"
    return None


def _check_hex_key(value: str) -> str | None:
    try:
        long_enough = len(bytes.fromhex(value)) >= 32
    except ValueError:
        long_enough = False
    return None if long_enough else "must be at least 64 hexadecimal digits"


def _check_fernet_key(value: str) -> str | None:
    try:
        usable = len(base64.urlsafe_b64decode(value)) == 32
    except (ValueError, binascii.Error):
        usable = False
    return None if usable else "must be 32 bytes in URL-safe base64 (a Fernet key)"


def _check_rsa_key(value: str) -> str | None:
    try:
        key = serialization.load_pem_private_key(value.encode(), password=None)
    except (ValueError, TypeError):
        return "must be an RSA private key in PEM without passphrase"
    if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < 2048:
        return "must be an RSA private key of at least 2048 bits"
    return None


class Kind:
    """Kind of secret: how to generate one, and why a given value is invalid (None if it is valid)."""

    def __init__(self, generate: Callable[[], str], check: Callable[[str], str | None]) -> None:
        self.generate = generate
        self.check = check


PASSWORD = Kind(_password, _check_text)
HEX_KEY = Kind(_hex_key, _check_hex_key)
FERNET_KEY = Kind(_fernet_key, _check_fernet_key)
RSA_KEY = Kind(_rsa_key, _check_rsa_key)

SECRETS: dict[str, Kind] = {
    "srcnodedb_superuser_password": PASSWORD,
    "posixmapper_superuser_password": PASSWORD,
    "cavern_db_password": PASSWORD,
    "preparer_db_password": PASSWORD,
    "posix_mapper_db_password": PASSWORD,
    "rabbitmq_password": PASSWORD,
    "rabbitmq_monitor_password": PASSWORD,
    "rabbitmq_erlang_cookie": PASSWORD,
    "iam_signing_key": RSA_KEY,
    "iam_user_password": PASSWORD,
    "iam_client_cavern_cli": PASSWORD,
    "iam_client_prepare_data": PASSWORD,
    "iam_client_cavern": PASSWORD,
    "iam_client_posix_mapper": PASSWORD,
    "iam_client_prepare_data_page": PASSWORD,
    "preparer_credential_key": FERNET_KEY,
    "preparer_callback_key": HEX_KEY,
    "vospace_preauth_key": HEX_KEY,
    "haproxy_proof": PASSWORD,
    "pull_proof": PASSWORD,
    "trace_key": HEX_KEY,
    "rucio_db_password": PASSWORD,
    "rucio_db_superuser_password": PASSWORD,
    "rucio_root_password": PASSWORD,
}


def key_id(pem: str) -> str:
    """Return the key ID under which the issuer publishes its key: the thumbprint (RFC 7638) of the public key."""
    key = serialization.load_pem_private_key(pem.encode(), password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise SecretError("iam_signing_key must be an RSA private key")
    numbers = key.public_key().public_numbers()
    public = {"e": _base64(numbers.e), "kty": "RSA", "n": _base64(numbers.n)}
    canonical = json.dumps(public, sort_keys=True, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(hashlib.sha256(canonical).digest()).rstrip(b"=").decode()


def _base64(number: int) -> str:
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class SecretError(Exception):
    """A given secret is invalid; the message names it, never its value."""


def check(values: Any, origin: str) -> dict[str, str]:
    """Refuse what is not a mapping of texts, and known secrets with an invalid value.

    Secrets that this version does not know are kept: another version of the collection may.
    """
    if not isinstance(values, dict):
        raise SecretError(f"{origin}: must be a mapping of names to values")
    for name, value in values.items():
        if not isinstance(value, str):
            raise SecretError(f"{origin}: {name} must be a text, not {type(value).__name__}; quote it")
        reason = SECRETS[name].check(value) if name in SECRETS else None
        if reason:
            raise SecretError(f"{origin}: {name} {reason}")
    return values


def check_names(names: Any, origin: str) -> None:
    """Refuse names of unknown secrets."""
    unknown = sorted(set(names) - set(SECRETS))
    if unknown:
        raise SecretError(f"{origin}: unknown secret {', '.join(unknown)}; known are {', '.join(SECRETS)}")
