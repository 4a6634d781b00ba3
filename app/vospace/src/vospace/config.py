"""Settings of the VOSpace."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from voservice.config import CommaList, ServiceSettings
from voservice.storage_elements import StorageElements


class Settings(ServiceSettings):
    """Settings of the VOSpace."""

    workers: int = Field(2, ge=1, le=64, description="Server processes")
    vospace_resource_id: str = Field("ivo://opencadc.org/cavern", description="Resource id of this service")
    vospace_aliases: CommaList = Field(
        default=[], description="Further resource ids under which the service is registered"
    )
    vospace_context_path: str = Field("/src/cavern", description="Path of the service below the public URL")
    vospace_base_dir: Path = Field(
        Path("/data"), description="Directory in the container where the data is mounted"
    )
    vospace_sub_path: str = Field(
        "cavern", description="Directory below vospace_base_dir that is the root of the space"
    )
    vospace_metadata: Literal["xattrs", "sidecar"] = Field(
        "xattrs",
        description="Where properties are stored: in user.* extended attributes,"
        " or in .vospace-properties below vospace_base_dir",
    )
    vospace_root_owner: str = Field(
        "cavernadmin", description="User who owns the root and may create allocations"
    )
    vospace_root_owner_uid: int = Field(9999, ge=0, description="That user's uid")
    vospace_root_owner_gid: int = Field(9999, ge=0, description="That user's gid")
    vospace_root_writers: CommaList = Field(
        default=[],
        description="Users who may create top-level nodes besides the root owner; [any] for every user",
    )
    vospace_operators: CommaList = Field(
        default=[],
        description="Users and groups who may set log levels and the maintenance mode besides the root owner",
    )
    vospace_allocation_parents: CommaList = Field(
        default=["/home", "/projects"], description="Containers whose children are allocations"
    )
    vospace_self_allocate: Literal["any", "groups", "none"] = Field(
        "any", description="Users who may create an allocation of their own name"
    )
    vospace_self_allocate_groups: CommaList = Field(
        default=[],
        description="Groups, as ivo://authority/gms?name, whose members may if vospace_self_allocate is groups",
    )
    vospace_default_quota_bytes: int = Field(
        0, ge=0, description="Quota of a new allocation, in bytes; 0 for none"
    )
    vospace_posix_mapper: str = Field(
        "ivo://opencadc.org/posix-mapper", description="POSIX mapper, base URL or resource id"
    )
    vospace_gms: str = Field("ivo://opencadc.org/gms", description="Group service, base URL or resource id")
    vospace_gms_delegated: bool = Field(
        False,
        description="Whether to query the group service, with user=NAME, for the groups of users without a token",
    )
    vospace_client_authorities: Path | None = Field(
        None, description="PEM file of the CAs that issue client certificates; without it none are accepted"
    )
    vospace_client_revocations: Path | None = Field(
        None, description="PEM file of the revocation lists of these CAs"
    )
    vospace_preauth_key: SecretStr = Field(
        description="Secret that signs pre-authorised URLs, 32 bytes or more"
    )
    vospace_preauth_seconds: int = Field(
        3600, ge=1, description="Lifetime of a pre-authorised URL, in seconds"
    )

    vospace_pull_sources: CommaList = Field(
        default=[], description="Base URLs that may be pulled from; without any, pulls are rejected"
    )
    vospace_rses: StorageElements = Field(
        default=[],
        description="Storage elements that may be pulled from too; their credentials are used only for prepare-data",
    )
    vospace_pull_proof: SecretStr = Field(
        SecretStr(""),
        description="Secret that authenticates pulls of prepare-data; without it no credentials of storage elements are"
        " used",
    )
    vospace_push_destinations: CommaList = Field(
        default=[],
        description="Base URLs that may be pushed to; without any, pushes are rejected",
    )
    vospace_pull_max_bytes: int = Field(
        0, ge=0, description="Maximum size of a pulled file, in bytes; 0 for no limit"
    )
    vospace_pull_connect_timeout: float = Field(
        10.0, gt=0, description="Timeout of a connection to a source, in seconds"
    )
    vospace_pull_stall_timeout: float = Field(
        60.0, gt=0, description="Timeout of the next bytes from a source, in seconds"
    )
    vospace_pull_attempts: int = Field(
        5, ge=1, description="Attempts at a source without progress before a pull fails"
    )
    vospace_pull_backoff: float = Field(
        0.5,
        gt=0,
        description="Delay after the first failed attempt, in seconds; it doubles with each further one",
    )

    vospace_transfer_slots: int = Field(8, ge=1, description="Concurrent transfers of a process")
    vospace_recursive_slots: int = Field(2, ge=1, description="Concurrent recursive jobs of a process")
    vospace_bulk_slots: int = Field(2, ge=1, description="Concurrent bulk pulls of a process")
    vospace_bulk_concurrency: int = Field(
        16, ge=1, le=256, description="Files that a bulk pull fetches concurrently"
    )
    vospace_bulk_max_rows: int = Field(100_000, ge=1, description="Maximum number of files of a bulk pull")
    vospace_bulk_max_bytes: int = Field(
        64 << 20, ge=1024, description="Maximum size of a bulk pull's request, in bytes"
    )
    vospace_user_share: int = Field(
        75, ge=1, le=100, description="Maximum share of all slots of a kind for one user's jobs, in percent"
    )
    vospace_user_jobs: int = Field(10_000, ge=1, description="Maximum number of queued jobs of one user")
    vospace_user_kept_bytes: int = Field(
        8 << 30,
        ge=1 << 20,
        description="Maximum total size of one user's large requests (64 KiB or more) stored with jobs, in bytes",
    )
    vospace_user_bodies: int = Field(
        8, ge=1, description="Maximum number of large requests of one user that a process receives at once"
    )
    vospace_user_packages: int = Field(
        4, ge=1, description="Maximum concurrent package downloads of one user, or of all anonymous callers"
    )
    vospace_anonymous_jobs: int = Field(
        1000, ge=1, description="Maximum number of stored jobs of anonymous callers; older ones are destroyed"
    )
    vospace_anonymous_retention: int = Field(
        3600,
        ge=60,
        description="Lifetime of an anonymous caller's job from its creation, in seconds",
    )
    vospace_job_lease: float = Field(
        15.0,
        gt=0,
        description="Time without a sign of life after which another process takes over a process's jobs, in seconds",
    )
    vospace_job_attempts: int = Field(5, ge=1, description="Starts of a job without progress before it fails")
    vospace_transfer_duration: int = Field(
        86_400, ge=0, description="Maximum duration of a transfer, in seconds; 0 for no limit"
    )
    vospace_bulk_duration: int = Field(
        604_800, ge=0, description="Maximum duration of a bulk pull, in seconds; 0 for no limit"
    )
    vospace_job_retention: int = Field(
        604_800,
        ge=60,
        description="Lifetime of a job from its creation, in seconds; clients may request less",
    )

    @field_validator("vospace_sub_path")
    @classmethod
    def _below(cls, value: str) -> str:
        # The base directory itself holds what users must not reach.
        if not value or PurePath(value).is_absolute() or not {"", ".", ".."}.isdisjoint(value.split("/")):
            raise ValueError(f"{value!r} is not a directory below vospace_base_dir, such as cavern")
        return value

    @property
    def service_url(self) -> str:
        """Public URL of the service, without a trailing slash."""
        return self.public_url.rstrip("/") + self.service_path

    @property
    def service_path(self) -> str:
        """Path of the service, without a trailing slash."""
        return "/" + self.vospace_context_path.strip("/")

    def share_of(self, slots: int) -> int:
        """Return how many jobs one user may run in all processes together, with *slots* in each."""
        return max(1, slots * self.workers * self.vospace_user_share // 100)

    @property
    def root(self) -> Path:
        return self.vospace_base_dir / self.vospace_sub_path
