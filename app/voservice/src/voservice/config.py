"""Settings of a service, read once at start: from its environment, a file, and a directory of secrets.

A setting is declared here, or in the service's own model, and nowhere else: name, type, bounds, default, unit and
meaning. The schema of inventories and their documentation are rendered from the models (``bin/render-docs``).
"""

from __future__ import annotations

import os
import sys
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)
from yaml import YAMLError

from voservice.auth.issuer import ALGORITHMS

# Their location in a container; environment variables of these names override it.
SETTINGS_FILE = "/config/settings.yml"
SECRETS_DIR = "/config/secrets"


def _split(value: Any) -> Any:
    """Split words separated by commas; return other values unchanged."""
    if isinstance(value, str):
        return [word.strip() for word in value.split(",") if word.strip()]
    return value


CommaList = Annotated[list[str], NoDecode, BeforeValidator(_split)]
"""A list written as words separated by commas."""


def _networks(words: list[str]) -> list[str]:
    for word in words:
        ip_network(word)  # its error says what is wrong
    return words


NetworkList = Annotated[CommaList, AfterValidator(_networks)]
"""Addresses and networks."""

S = TypeVar("S", bound="ServiceSettings")


class Secrets(SecretsSettingsSource):
    """Secrets from files of the same name; an unreadable or empty one ends the process."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the value of one field, or None if the file does not exist."""
        try:
            value, key, is_complex = super().get_field_value(field, field_name)
        except OSError as exc:
            raise SystemExit(f"{field_name}: cannot read {exc.filename}: {exc.strerror}") from exc
        except UnicodeDecodeError as exc:
            raise SystemExit(f"{field_name}: its file in {self.secrets_dir} is not UTF-8 text") from exc
        if value == "":
            raise SystemExit(f"{field_name}: its file in {self.secrets_dir} is empty")
        return value, key, is_complex


class ServiceSettings(BaseSettings):
    """Settings of every service of this project."""

    # A misspelled name would have no effect.
    model_config = SettingsConfigDict(extra="forbid")

    public_url: str = Field(
        "https://haproxy.cadc.dao.nrc.ca", description="Public base URL without a trailing slash"
    )
    oidc_issuer: str = Field(
        "https://haproxy.cadc.dao.nrc.ca/iam",
        description="OpenID Connect issuer, spelled as in the claim iss of its tokens",
    )
    oidc_audiences: CommaList = Field(
        default=[], description="Accepted values of the claim aud; by default the public URL"
    )
    oidc_require_audience: bool = Field(True, description="Reject tokens without the claim aud")
    oidc_algorithms: CommaList = Field(
        default=["RS256", "ES256"], description="Accepted signature algorithms"
    )
    oidc_key_ids: CommaList = Field(
        default=[],
        description="IDs of the issuer's keys to accept; by default all that it publishes",
    )
    trusted_proxies: NetworkList = Field(
        default=[],
        description="Addresses or networks of proxies whose headers about clients are accepted with proxy_proof",
    )
    proxy_proof: SecretStr = Field(
        SecretStr(""), description="Secret that authenticates a proxy; without it none is trusted"
    )
    registry_url: str = Field(
        "https://haproxy.cadc.dao.nrc.ca/reg", description="Base URL of the IVOA registry"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", description="Minimum severity of log messages"
    )
    body_patience: float = Field(
        30.0,
        gt=0,
        description="Period over which the rate of a request's body is measured, in seconds; slower ones get 408",
    )
    body_pace: int = Field(500, ge=0, description="Minimum rate of a request's body, in bytes per second")
    response_patience: float = Field(
        600.0,
        gt=0,
        description="Time spent waiting for a client over which the rate at which it reads a response is measured, in"
        " seconds; slower clients are disconnected",
    )
    response_pace: int = Field(
        500, ge=0, description="Minimum rate at which a client reads a response, in bytes per second"
    )
    workers: int = Field(1, ge=1, le=64, description="Server processes")
    traces_endpoint: str = Field(
        "",
        description="Base URL of the OpenTelemetry collector that traces are sent to (OTLP over HTTP); without one"
        " there are none",
    )
    traces_token: SecretStr = Field(
        SecretStr(""), description="Token that is sent to the collector, as Authorization: Bearer"
    )
    traces_key: SecretStr = Field(
        SecretStr(""),
        description="Secret by which services know each other's traces; without it none is continued",
    )
    traces_ratio: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Part of the requests of clients that are traced, with all that follows from them",
    )
    database_url: str = Field("", description="postgresql://role@host:port/database, without the password")
    database_password: SecretStr = Field(SecretStr(""), description="Password of the database role")
    service_client_id: str = Field("", description="Name of the service's own OAuth client")
    service_client_secret: SecretStr = Field(SecretStr(""), description="Secret of that client")

    @property
    def exchanged_lifetime(self) -> int | None:
        """Lifetime to request for the token that a user's is exchanged for, in seconds; None if it is not exchanged."""
        return None

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("traces_endpoint")
    @classmethod
    def _optional_url(cls, value: str) -> str:
        return cls._url(value).rstrip("/") if value else value

    @field_validator("public_url", "oidc_issuer", "registry_url")
    @classmethod
    def _url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"{value!r} is not an http or https URL without query and fragment")
        return value

    @field_validator("public_url", "registry_url")
    @classmethod
    def _base(cls, value: str) -> str:
        return value.rstrip("/")

    @field_validator("oidc_algorithms")
    @classmethod
    def _algorithms(cls, value: list[str]) -> list[str]:
        unknown = [name for name in value if name not in ALGORITHMS]
        if unknown or not value:
            raise ValueError(f"{', '.join(unknown) or 'nothing'} is not among {', '.join(ALGORITHMS)}")
        return value

    @model_validator(mode="after")
    def _audience(self) -> Self:
        self.oidc_audiences = self.oidc_audiences or [self.public_url]
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: arguments, the environment, the file, the secrets."""
        file = os.environ.get("SETTINGS_FILE", SETTINGS_FILE)
        secrets = os.environ.get("SECRETS_DIR", SECRETS_DIR)
        sources = (init_settings, env_settings, YamlConfigSettingsSource(settings_cls, yaml_file=file))
        return (*sources, Secrets(settings_cls, secrets)) if Path(secrets).is_dir() else sources


def load(settings: type[S]) -> S:
    """Read the settings, or end the process with a message that names the setting and the error."""
    try:
        return settings()
    except ValidationError as exc:
        for error in exc.errors():
            name = ".".join(map(str, error["loc"])) or "settings"
            print(f"{name}: {error['msg'].removeprefix('Value error, ')}", file=sys.stderr)
        raise SystemExit(2) from exc
    except (YAMLError, ValueError, TypeError) as exc:
        raise SystemExit(f"{os.environ.get('SETTINGS_FILE', SETTINGS_FILE)}: no settings: {exc}") from exc
