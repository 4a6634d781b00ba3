"""OAuth clients and users that the issuer knows, read from a file."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)
from voservice.auth import USERNAME

# Names of grants (RFC 6749 sections 4.1, 4.3, 4.4 and 6); that of RFC 8693 is voservice.auth.EXCHANGE.
AUTHORIZATION_CODE = "authorization_code"
REFRESH_TOKEN = "refresh_token"  # noqa: S105 - the name of a grant
RESOURCE_OWNER = "password"
CLIENT_CREDENTIALS = "client_credentials"


class Client(BaseModel):
    """An OAuth client. With a ``username`` it may act as that user."""

    model_config = ConfigDict(extra="forbid")

    client_id: str = Field(min_length=1)
    secret_file: Path
    grants: list[
        Literal[
            "authorization_code",
            "refresh_token",
            "password",
            "client_credentials",
            "urn:ietf:params:oauth:grant-type:token-exchange",
        ]
    ]
    redirect_uris: list[str] = Field(
        [], description="Where users come back to who have signed in for the client"
    )
    username: str | None = None
    groups: list[str] = []
    reads_groups: bool = Field(False, description="May ask the group service for any user's groups")
    _secret: bytes = PrivateAttr()

    @field_validator("username")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        if value is not None and not USERNAME.match(value):
            raise ValueError("letters, digits and _.@-, beginning with a letter or digit")
        return value

    @field_validator("redirect_uris")
    @classmethod
    def _are_places(cls, value: list[str]) -> list[str]:
        for uri in value:
            parts = urlsplit(uri)
            if parts.scheme not in {"http", "https"} or not parts.hostname or "#" in uri:
                raise ValueError(f"{uri!r} is not an http or https URL without a fragment")
        return value

    @model_validator(mode="after")
    def _has_a_place(self) -> Self:
        if AUTHORIZATION_CODE in self.grants and not self.redirect_uris:
            raise ValueError(f"redirect_uris: {AUTHORIZATION_CODE} needs at least one")
        return self

    @model_validator(mode="after")
    def _read_secret(self) -> Self:
        try:
            self._secret = self.secret_file.read_bytes().strip()
        except OSError as exc:
            raise ValueError(f"secret_file: cannot read {self.secret_file}: {exc.strerror}") from exc
        if not self._secret:
            raise ValueError(f"secret_file: {self.secret_file} is empty")
        return self

    def has_secret(self, secret: str) -> bool:
        """Whether *secret* is the client's; takes as long for a wrong one as for the right one."""
        return secrets.compare_digest(self._secret, secret.encode())


class User(BaseModel):
    """A user with configured groups."""

    model_config = ConfigDict(extra="forbid")

    groups: list[str] = []


class Directory(BaseModel):
    """The clients and users of the deployment."""

    model_config = ConfigDict(extra="forbid")

    clients: list[Client]
    users: dict[str, User] = {}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file, or end the process with a message that names the invalid field."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as exc:
            raise SystemExit(f"iam_clients_file: cannot read {path}: {exc.strerror}") from exc
        except ValidationError as exc:
            wrong = (f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors())
            raise SystemExit(f"iam_clients_file: {path}: {'; '.join(wrong)}") from exc

    @model_validator(mode="after")
    def _ids_differ(self) -> Self:
        ids = [client.client_id for client in self.clients]
        if twice := {client_id for client_id in ids if ids.count(client_id) > 1}:
            raise ValueError(f"clients: more than one has the client_id {', '.join(sorted(twice))}")
        return self

    def authenticate(self, client_id: str, client_secret: str) -> Client | None:
        """Return the client with that id and secret; an unknown id takes as long as a wrong secret."""
        found = None
        for client in self.clients:
            known = secrets.compare_digest(client.client_id.encode(), client_id.encode())
            if client.has_secret(client_secret) and known:
                found = client
        return found

    def client(self, client_id: str) -> Client | None:
        """Return the client with that id, which has proven nothing yet."""
        return next((client for client in self.clients if client.client_id == client_id), None)

    def reads_groups(self, client_id: str) -> bool:
        """Return whether a client may read all users' groups."""
        return any(client.reads_groups for client in self.clients if client.client_id == client_id)

    def groups(self, username: str) -> list[str]:
        """Return the groups of a user, including those of the client that acts as that user."""
        known = self.users.get(username, User()).groups
        acting = [group for client in self.clients if client.username == username for group in client.groups]
        return sorted({*known, *acting})
