"""Settings of the issuer."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from voservice.config import ServiceSettings


class IamSettings(ServiceSettings):
    """Settings of the issuer for development."""

    iam_clients_file: Path = Field(
        description="JSON file with the OAuth clients and the users that have groups"
    )
    iam_signing_key: SecretStr = Field(description="RSA private key, PEM, that signs the tokens")
    iam_user_password: SecretStr = Field(
        min_length=1, description="Password of every user: this issuer is for development"
    )
    iam_default_lifetime: int = Field(
        3600, ge=1, description="Lifetime of a token if the request states none, in seconds"
    )
    iam_session_lifetime: int = Field(
        43_200, ge=60, description="Time after which a user must sign in at a client again, in seconds"
    )
    iam_max_lifetime: int = Field(604_800, ge=60, description="Maximum lifetime of a token, in seconds")
