"""Configuration from the environment, read once at start.

Any variable ``X`` may instead be given as ``X_FILE``, the path of a file that holds its value: secrets come that way.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from voservice.auth.issuer import ALGORITHMS


def _split(value: Any) -> Any:
    """Split words separated by commas; anything that is no string is left as it is."""
    if isinstance(value, str):
        return [word.strip() for word in value.split(",") if word.strip()]
    return value


CommaList = Annotated[list[str], NoDecode, BeforeValidator(_split)]
"""A list written as words separated by commas."""

S = TypeVar("S", bound="ServiceSettings")


class FileSource(PydanticBaseSettingsSource):
    """Reads ``X`` from the file that ``X_FILE`` names."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the value of one field, or None where no file is named."""
        prefix = self.config.get("env_prefix", "")
        alias = field.validation_alias if isinstance(field.validation_alias, str) else None
        name = (alias or f"{prefix}{field_name}").upper()
        path = os.environ.get(f"{name}_FILE")
        if not path:
            return None, field_name, False
        if name in os.environ:
            raise SystemExit(f"{name} and {name}_FILE: set one of them")
        try:
            value = Path(path).read_text(encoding="utf-8").strip()
        except OSError as exc:
            raise SystemExit(f"{name}_FILE: cannot read {path}: {exc.strerror}") from exc
        except UnicodeDecodeError as exc:
            raise SystemExit(f"{name}_FILE: {path} is not UTF-8 text") from exc
        if not value:
            raise SystemExit(f"{name}_FILE: {path} is empty")
        return value, alias or field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the values of all fields that come from files."""
        values: dict[str, Any] = {}
        for name, field in self.settings_cls.model_fields.items():
            value, key, _ = self.get_field_value(field, name)
            if value is not None:
                values[key] = value
        return values


class ServiceSettings(BaseSettings):
    """What every service is told. Durations are seconds, sizes bytes."""

    model_config = SettingsConfigDict(extra="ignore", populate_by_name=True)

    public_url: str = Field(
        "https://haproxy.cadc.dao.nrc.ca", description="Public base URL without a trailing slash"
    )
    oidc_issuer: str = Field(
        "https://haproxy.cadc.dao.nrc.ca/iam", description="Issuer, spelled as in the claim iss"
    )
    oidc_audiences: CommaList = Field(
        default_factory=list, description="Values of aud that are accepted; without any, the public URL"
    )
    oidc_require_audience: bool = Field(True, description="Refuse tokens without the claim aud")
    oidc_algorithms: CommaList = Field(
        default=["RS256", "ES256"], description="Signature algorithms that are accepted"
    )
    trusted_proxies: CommaList = Field(
        default_factory=list, description="Peers whose forwarding headers are believed, with the proof"
    )
    proxy_proof: SecretStr = Field(
        SecretStr(""), description="Secret by which a proxy proves itself; without one none is believed"
    )
    registry_url: str = Field(
        "https://haproxy.cadc.dao.nrc.ca/reg", description="Base URL of the IVOA registry"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", description="Least severity that is logged"
    )
    body_patience: float = Field(30.0, gt=0, description="Time over which the pace of a body is measured")
    body_pace: int = Field(
        500, ge=0, description="Bytes a second that a request's body must bring at the least"
    )
    workers: int = Field(1, ge=1, le=64, description="Server processes")
    database_url: str = Field("", description="postgresql://role@host:port/database, without the password")
    database_password: SecretStr = Field(SecretStr(""), description="Password of the database role")
    service_client_id: str = Field("", description="The service's own OAuth client")
    service_client_secret: SecretStr = Field(SecretStr(""), description="Secret of that client")

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

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
        """Order the sources: arguments, the environment, files that the environment names."""
        return init_settings, env_settings, FileSource(settings_cls)


def load(settings: type[S]) -> S:
    """Read the settings or end the process with a message that names the variable and what is wrong with it."""
    try:
        return settings()
    except ValidationError as exc:
        for error in exc.errors():
            name = ".".join(map(str, error["loc"])).upper() or "configuration"
            print(f"{name}: {error['msg'].removeprefix('Value error, ')}", file=sys.stderr)
        raise SystemExit(2) from exc
