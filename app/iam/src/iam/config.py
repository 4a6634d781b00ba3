"""Settings of the issuer, and the clients and users it knows."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, SecretStr
from voservice.config import ServiceSettings

PASSWORD = "password"  # noqa: S105 - the name of a grant
CLIENT_CREDENTIALS = "client_credentials"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 - the name of a grant


class IamSettings(ServiceSettings):
    """What the issuer is told besides what every service is."""

    iam_clients_file: Path = Field(
        description="JSON file with the OAuth clients and the users that have groups"
    )
    iam_signing_key: SecretStr = Field(description="RSA private key, PEM, that signs the tokens")
    iam_user_password: SecretStr = Field(description="Password of every user: this issuer is for development")
    iam_default_lifetime: int = Field(
        3600, ge=1, description="Life of a token in seconds where none is asked for"
    )
    iam_max_lifetime: int = Field(604_800, ge=60, description="Longest life of a token, in seconds")


class Client(BaseModel):
    """An OAuth client. With a ``username`` it may act as that user."""

    client_id: str
    secret_file: Path
    grants: list[Literal["password", "client_credentials", "urn:ietf:params:oauth:grant-type:token-exchange"]]
    username: str | None = None
    groups: list[str] = []

    def has_secret(self, secret: str) -> bool:
        """Whether *secret* is the client's."""
        return secrets.compare_digest(self.secret_file.read_text().strip().encode(), secret.encode())


class User(BaseModel):
    """A user of whom more is known than the name."""

    groups: list[str] = []


class Directory(BaseModel):
    """The clients and users of the deployment."""

    clients: list[Client]
    users: dict[str, User] = {}

    def client(self, client_id: str) -> Client | None:
        """Client of that id."""
        return next((client for client in self.clients if client.client_id == client_id), None)

    def groups(self, username: str) -> list[str]:
        """Groups of a user, those of the client that acts as that user included."""
        known = self.users.get(username, User()).groups
        acting = [group for client in self.clients if client.username == username for group in client.groups]
        return sorted({*known, *acting})
