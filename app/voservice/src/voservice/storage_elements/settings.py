"""Settings of a storage element."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from voservice.sources import SourcePolicy, confidential_base, place

Kind = Literal["none", "token_file", "client_credentials", "token_exchange", "x509_proxy"]
OF_CLIENT = frozenset({"client_credentials", "token_exchange"})
"""Credentials that an OAuth client gets from an issuer."""
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"


class StorageElement(BaseModel):
    """One storage element."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(
        pattern=_NAME,
        description="Name in requests and in the status of files; the same as in Rucio, if Rucio is queried",
    )
    url: str = Field(description="Base URL to which the paths of files are relative")
    layout: Literal["hash", "identity", "none"] = Field(
        "hash",
        description="Deterministic layout, as named by Rucio; with none, requests must give the paths of files",
    )
    redirects: list[str] = Field(
        default=[],
        description="Further base URLs to which it may redirect, such as https://*.pools.example.org:*; the credential"
        " is never sent to them",
    )
    ca_file: str | None = Field(
        None, description="PEM file of the CAs that it is verified against, instead of the deployment's"
    )
    credential: Kind = Field("none", description="Kind of credential with which it is accessed")
    credential_file: str | None = Field(
        None,
        description="File with the bearer token, the secret of the OAuth client, or the proxy (certificates and key)."
        " It is read again when it changes",
    )
    issuer: str | None = Field(None, description="Issuer of the token, if not the deployment's; https")
    client_id: str | None = Field(None, description="OAuth client that gets the token")
    audience: str | None = Field(None, description="Audience to request for the token")
    scope: str | None = Field(
        None, description="Scopes to request for the token, separated by spaces, such as storage.read:/"
    )
    connections: int = Field(
        0, ge=0, description="Maximum concurrent connections of each service; 0 for no limit"
    )
    rate: float = Field(0.0, ge=0, description="Maximum requests per second of each service; 0 for no limit")

    @field_validator("url")
    @classmethod
    def _base(cls, value: str) -> str:
        if "*" in value or "?" in value or "#" in value:
            raise ValueError(f"{value!r} is not a base URL such as https://rse.example.org:1094/data")
        SourcePolicy([value])
        return value.rstrip("/")

    @field_validator("issuer")
    @classmethod
    def _confidential(cls, value: str | None) -> str | None:
        if value is not None:
            confidential_base(value)
        # Spelled as in the claim iss.
        return value

    @field_validator("redirects")
    @classmethod
    def _bases(cls, value: list[str]) -> list[str]:
        SourcePolicy(value)
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.credential != "none":
            if not self.url.startswith("https:"):
                raise ValueError(f"{self.name}: url must be https for a credential to be sent there")
            if not self.credential_file:
                raise ValueError(f"{self.name}: credential_file is missing for {self.credential}")
        if self.credential in OF_CLIENT and not self.client_id:
            raise ValueError(f"{self.name}: client_id is missing for {self.credential}")
        return self


def _differ(elements: list[StorageElement]) -> list[StorageElement]:
    names: set[str] = set()
    places: dict[object, str] = {}
    for element in elements:
        if element.name in names:
            raise ValueError(f"more than one storage element has the name {element.name}")
        names.add(element.name)
        other = places.setdefault(place(element.url), element.name)
        if other != element.name:
            raise ValueError(f"{other} and {element.name} have the same url, {element.url}")
    return elements


StorageElements = Annotated[list[StorageElement], AfterValidator(_differ)]
"""Storage elements of a service; no two have the same name or base URL, however those are spelled."""
