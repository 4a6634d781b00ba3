"""Settings of the POSIX mapper."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import NoDecode
from voservice.auth import USERNAME
from voservice.config import ServiceSettings


class PosixMapperSettings(ServiceSettings):
    """What the POSIX mapper is told besides what every service is."""

    posix_mapper_context_path: str = Field(
        "/src/posix-mapper", description="Path below which the service answers"
    )
    posix_mapper_uid_start: int = Field(
        10_000, ge=1000, description="First uid, used when the tables are made"
    )
    posix_mapper_gid_start: int = Field(
        900_000, ge=1000, description="First gid, used when the tables are made"
    )
    posix_mapper_reserved_users: Annotated[dict[str, int], NoDecode] = Field(
        default_factory=dict, description="name:uid of users whose number is fixed, separated by commas"
    )

    @field_validator("posix_mapper_reserved_users", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = {}
        for pair in filter(None, (part.strip() for part in value.split(","))):
            name, _, uid = pair.partition(":")
            if not USERNAME.match(name) or not uid.isdecimal():
                raise ValueError(f"{pair!r} is not name:uid")
            pairs[name] = int(uid)
        return pairs
