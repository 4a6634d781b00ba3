"""Settings of the POSIX mapper."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import NoDecode
from voservice.auth import USERNAME
from voservice.config import CommaList, ServiceSettings

from posix_mapper.models import LARGEST


class PosixMapperSettings(ServiceSettings):
    """What the POSIX mapper is told besides what every service is."""

    posix_mapper_context_path: str = Field(
        "/src/posix-mapper", description="Path below which the service answers"
    )
    posix_mapper_uid_start: int = Field(
        10_000, ge=1000, le=LARGEST, description="First uid, used when the tables are made"
    )
    posix_mapper_gid_start: int = Field(
        900_000, ge=1000, le=LARGEST, description="First gid, used when the tables are made"
    )
    posix_mapper_reserved_users: Annotated[dict[str, int], NoDecode] = Field(
        default_factory=dict, description="name:uid of users whose number is fixed, separated by commas"
    )
    posix_mapper_registrars: CommaList = Field(
        default_factory=list,
        description="OAuth clients whose tokens bring names into the mapping, as reserved users do; any: every token."
        " A user's own name gets its number in any case.",
    )
    posix_mapper_operators: CommaList = Field(
        default_factory=list,
        description="Users, and groups as tokens name them, who besides the reserved users may set log levels",
    )

    @field_validator("posix_mapper_reserved_users", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs: dict[str, int] = {}
        for pair in filter(None, (part.strip() for part in value.split(","))):
            name, _, uid = pair.partition(":")
            if not USERNAME.match(name) or not uid.isdecimal() or not 0 < int(uid) <= LARGEST:
                raise ValueError(f"{pair!r} is not name:uid with a uid from 1 to {LARGEST}")
            if name in pairs or int(uid) in pairs.values():
                raise ValueError(f"{pair!r}: the name or the uid is there twice")
            pairs[name] = int(uid)
        return pairs

    @field_validator("posix_mapper_context_path")
    @classmethod
    def _path(cls, value: str) -> str:
        if not value.startswith("/") or "//" in value or "?" in value:
            raise ValueError(f"{value!r} is not a path that begins with a slash")
        return value.rstrip("/")
