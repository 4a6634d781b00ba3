"""Settings of the POSIX mapper."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import NoDecode
from voservice.auth import USERNAME
from voservice.config import CommaList, ServiceSettings

from posix_mapper.models.entries import LARGEST


class PosixMapperSettings(ServiceSettings):
    """Settings of the POSIX mapper."""

    posix_mapper_context_path: str = Field(
        "/src/posix-mapper", description="Path of the service below the public URL"
    )
    posix_mapper_uid_start: int = Field(
        10_000, ge=1000, le=LARGEST, description="First uid, used when the tables are created"
    )
    posix_mapper_gid_start: int = Field(
        900_000, ge=1000, le=LARGEST, description="First gid, used when the tables are created"
    )
    posix_mapper_reserved_users: Annotated[dict[str, int], NoDecode] = Field(
        default={}, description="Reserved users with their fixed uid"
    )
    posix_mapper_registrars: CommaList = Field(
        default=[],
        description="OAuth clients, by client_id or azp of their tokens, that may register users and groups besides the"
        " reserved users; [any] for every caller. Users always register their own name",
    )
    posix_mapper_operators: CommaList = Field(
        default=[],
        description="Users, and groups as named in tokens, who may set log levels besides the reserved users",
    )

    @field_validator("posix_mapper_reserved_users", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs: dict[str, str] = {}
        for pair in filter(None, (part.strip() for part in value.split(","))):
            name, colon, uid = pair.partition(":")
            if not colon:
                raise ValueError(f"{pair!r} is not name:uid")
            if name in pairs:
                raise ValueError(f"{pair!r}: the name is there twice")
            pairs[name] = uid
        return pairs

    @field_validator("posix_mapper_reserved_users")
    @classmethod
    def _reserved(cls, value: dict[str, int]) -> dict[str, int]:
        for name, uid in value.items():
            if not USERNAME.match(name) or not 0 < uid <= LARGEST:
                raise ValueError(f"{name}:{uid} is not a user's name with a uid from 1 to {LARGEST}")
            if list(value.values()).count(uid) > 1:
                raise ValueError(f"{name}:{uid}: the uid is there twice")
        return value

    @field_validator("posix_mapper_context_path")
    @classmethod
    def _path(cls, value: str) -> str:
        if not value.startswith("/") or "//" in value or "?" in value:
            raise ValueError(f"{value!r} is not a path that begins with a slash")
        return value.rstrip("/")
