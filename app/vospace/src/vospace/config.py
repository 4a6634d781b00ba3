"""What the service is told by its environment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from voservice.config import CommaList, ServiceSettings


class Settings(ServiceSettings):
    """Durations are seconds, sizes bytes."""

    vospace_resource_id: str = Field("ivo://opencadc.org/cavern", description="Resource id of this service")
    vospace_aliases: CommaList = Field(
        default_factory=list, description="Other resource ids under which the service is registered"
    )
    vospace_context_path: str = Field("/src/cavern", description="Path of the service below the public URL")
    vospace_base_dir: Path = Field(Path("/data"), description="Directory of the data volume")
    vospace_sub_path: str = Field("cavern", description="Directory below it that is the root of the space")
    vospace_metadata: Literal["xattrs", "sidecar"] = Field(
        "xattrs",
        description="Where properties are kept: in user.* attributes, or in VOSPACE_BASE_DIR/.vospace-properties",
    )
    vospace_root_owner: str = Field(
        "cavernadmin", description="User who owns the root and may make allocations"
    )
    vospace_root_owner_uid: int = Field(9999, ge=0, description="That user's uid")
    vospace_root_owner_gid: int = Field(9999, ge=0, description="That user's gid")
    vospace_root_writers: CommaList = Field(
        default_factory=list, description="Who else may create top-level nodes: any, or a list of users"
    )
    vospace_operators: CommaList = Field(
        default_factory=list,
        description="Users and groups who, besides the root owner, may set log levels and the maintenance mode",
    )
    vospace_allocation_parents: CommaList = Field(
        default=["/home", "/projects"], description="Containers whose children are allocations"
    )
    vospace_self_allocate: Literal["any", "groups", "none"] = Field(
        "any", description="Who may create an allocation that has the user's own name"
    )
    vospace_self_allocate_groups: CommaList = Field(
        default_factory=list, description="Groups whose members may, with self_allocate = groups"
    )
    vospace_default_quota_bytes: int = Field(0, ge=0, description="Quota of a new allocation; 0: none")
    vospace_posix_mapper: str = Field(
        "ivo://opencadc.org/posix-mapper", description="POSIX mapper, base URL or resource id"
    )
    vospace_gms: str = Field("ivo://opencadc.org/gms", description="Group service, base URL or resource id")
    vospace_gms_delegated: bool = Field(
        False, description="The group service tells us, asked with user=NAME, the groups of who has no token"
    )
    vospace_client_authorities: Path | None = Field(
        None, description="PEM file of those who issue client certificates; without it none is believed"
    )
    vospace_preauth_key: SecretStr = Field(
        description="Secret that signs pre-authorised URLs, 32 bytes or more"
    )
    vospace_preauth_seconds: int = Field(3600, ge=1, description="How long a pre-authorised URL is good")

    vospace_pull_sources: CommaList = Field(
        default_factory=list, description="Base URLs that may be fetched from; without any, pulls are refused"
    )
    vospace_push_destinations: CommaList = Field(
        default_factory=list,
        description="Base URLs that may be sent to; without any, such pushes are refused",
    )
    vospace_pull_max_bytes: int = Field(0, ge=0, description="Largest file that is fetched; 0: no limit")
    vospace_pull_connect_timeout: float = Field(10.0, gt=0, description="Wait for a connection to a source")
    vospace_pull_stall_timeout: float = Field(60.0, gt=0, description="Wait for the next bytes of a source")
    vospace_pull_attempts: int = Field(5, ge=1, description="Attempts at a source without any progress")
    vospace_pull_backoff: float = Field(
        0.5, gt=0, description="Pause after the first failed attempt; doubles"
    )

    vospace_transfer_slots: int = Field(8, ge=1, description="Transfers that a process runs at a time")
    vospace_recursive_slots: int = Field(2, ge=1, description="Recursive jobs that a process runs at a time")
    vospace_bulk_slots: int = Field(2, ge=1, description="Bulk pulls that a process runs at a time")
    vospace_bulk_concurrency: int = Field(16, ge=1, le=256, description="Files a bulk pull fetches at a time")
    vospace_bulk_max_rows: int = Field(100_000, ge=1, description="Rows in one bulk pull")
    vospace_bulk_max_bytes: int = Field(64 << 20, ge=1024, description="Size of a bulk pull's request")
    vospace_job_lease: float = Field(
        15.0, gt=0, description="A silent process loses its jobs after this time"
    )
    vospace_job_attempts: int = Field(5, ge=1, description="Starts of a job that makes no progress")
    vospace_transfer_duration: int = Field(86_400, ge=0, description="Longest run of a transfer; 0: no limit")
    vospace_bulk_duration: int = Field(604_800, ge=0, description="Longest run of a bulk pull; 0: no limit")
    vospace_job_retention: int = Field(
        604_800, ge=60, description="Jobs are destroyed this long after creation"
    )

    @property
    def service_url(self) -> str:
        """Public URL of the service, without a trailing slash."""
        return self.public_url.rstrip("/") + "/" + self.vospace_context_path.strip("/")

    @property
    def root(self) -> Path:
        return self.vospace_base_dir / self.vospace_sub_path
