"""Settings of the VOSpace."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from voservice.config import CommaList, ServiceSettings
from voservice.storage_elements import StorageElement, check_elements


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
        description="Where properties are kept: in user.* extended attributes,"
        " or in .vospace-properties below vospace_base_dir",
    )
    vospace_root_owner: str = Field(
        "cavernadmin", description="User who owns the root and may make allocations"
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
        "any", description="Who may create an allocation of the own name"
    )
    vospace_self_allocate_groups: CommaList = Field(
        default=[],
        description="Groups, as ivo://authority/gms?name, whose members may where vospace_self_allocate is groups",
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
        description="Whether the group service is asked, with user=NAME, for the groups of users who have no token",
    )
    vospace_client_authorities: Path | None = Field(
        None, description="PEM file of those who issue client certificates; without it none is believed"
    )
    vospace_client_revocations: Path | None = Field(
        None, description="PEM file of what each of those has revoked"
    )
    vospace_preauth_key: SecretStr = Field(
        description="Secret that signs pre-authorised URLs, 32 bytes or more"
    )
    vospace_preauth_seconds: int = Field(
        3600, ge=1, description="Lifetime of a pre-authorised URL, in seconds"
    )

    vospace_pull_sources: CommaList = Field(
        default=[], description="Base URLs that may be pulled from; without any, pulls are refused"
    )
    vospace_rses: list[StorageElement] = Field(
        default=[],
        description="Storage elements that may be pulled from besides; with their credentials for prepare-data alone",
    )
    vospace_pull_proof: SecretStr = Field(
        SecretStr(""),
        description="Secret by which prepare-data proves that a pull is its own; without one no credential of a storage"
        " element is used",
    )
    vospace_push_destinations: CommaList = Field(
        default=[],
        description="Base URLs that may be pushed to; without any, pushes are refused",
    )
    vospace_pull_max_bytes: int = Field(
        0, ge=0, description="Largest file that is pulled, in bytes; 0 for no limit"
    )
    vospace_pull_connect_timeout: float = Field(
        10.0, gt=0, description="Longest wait for a connection to a source, in seconds"
    )
    vospace_pull_stall_timeout: float = Field(
        60.0, gt=0, description="Longest wait for the next bytes of a source, in seconds"
    )
    vospace_pull_attempts: int = Field(
        5, ge=1, description="Attempts at a source that make no progress before a pull fails"
    )
    vospace_pull_backoff: float = Field(
        0.5,
        gt=0,
        description="Pause after the first failed attempt, in seconds; it doubles with each further one",
    )

    vospace_transfer_slots: int = Field(8, ge=1, description="Transfers that a process runs at once")
    vospace_recursive_slots: int = Field(2, ge=1, description="Recursive jobs that a process runs at once")
    vospace_bulk_slots: int = Field(2, ge=1, description="Bulk pulls that a process runs at once")
    vospace_bulk_concurrency: int = Field(
        16, ge=1, le=256, description="Files that a bulk pull fetches at once"
    )
    vospace_bulk_max_rows: int = Field(100_000, ge=1, description="Most files of a bulk pull")
    vospace_bulk_max_bytes: int = Field(
        64 << 20, ge=1024, description="Largest request of a bulk pull, in bytes"
    )
    vospace_user_share: int = Field(
        75, ge=1, le=100, description="Most of all slots of a kind that one user's jobs may have, in percent"
    )
    vospace_user_jobs: int = Field(10_000, ge=1, description="Most jobs of one user that have not begun")
    vospace_user_kept_bytes: int = Field(
        8 << 30,
        ge=1 << 20,
        description="Most bytes of one user's large requests, of 64 KiB or more each, that are kept with their jobs",
    )
    vospace_user_bodies: int = Field(
        8, ge=1, description="Most large requests of one user that arrive at once in a process"
    )
    vospace_user_packages: int = Field(
        4, ge=1, description="Most packages that one user, or all who have no name, download at once"
    )
    vospace_anonymous_jobs: int = Field(
        1000, ge=1, description="Most jobs of callers without a name that are kept; older ones are destroyed"
    )
    vospace_anonymous_retention: int = Field(
        3600,
        ge=60,
        description="Time after its creation when a job without an owner is destroyed, in seconds",
    )
    vospace_job_lease: float = Field(
        15.0, gt=0, description="Silence of a process after which its jobs are another's, in seconds"
    )
    vospace_job_attempts: int = Field(
        5, ge=1, description="Starts of a job that make no progress before it fails"
    )
    vospace_transfer_duration: int = Field(
        86_400, ge=0, description="Longest run of a transfer, in seconds; 0 for no limit"
    )
    vospace_bulk_duration: int = Field(
        604_800, ge=0, description="Longest run of a bulk pull, in seconds; 0 for no limit"
    )
    vospace_job_retention: int = Field(
        604_800,
        ge=60,
        description="Time after its creation when a job is destroyed, in seconds; clients may ask for less",
    )

    @field_validator("vospace_rses")
    @classmethod
    def _differ(cls, value: list[StorageElement]) -> list[StorageElement]:
        check_elements(value)
        return value

    @property
    def service_url(self) -> str:
        """Public URL of the service, without a trailing slash."""
        return self.public_url.rstrip("/") + "/" + self.vospace_context_path.strip("/")

    def share_of(self, slots: int) -> int:
        """How many of *slots* of each process one user may have, in all processes together."""
        return max(1, slots * self.workers * self.vospace_user_share // 100)

    @property
    def root(self) -> Path:
        return self.vospace_base_dir / self.vospace_sub_path
