"""Settings that the API and the worker of prepare-data share."""

from __future__ import annotations

import uuid
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from voservice.config import CommaList, ServiceSettings
from voservice.sources import SourcePolicy, confidential_base
from voservice.storage_elements import StorageElement, StorageElements

Approach = Literal["cavern_api_approach", "copy_to_user_area", "symbolic_link"]


RESULT_SECONDS = 3600
"""Time that clients have in any case to read the result of a task, in seconds."""


class PreparerSettings(ServiceSettings):
    """Settings of prepare-data; the names without a prefix are those of SKA's own service."""

    prepare_data_approach: Approach = Field(
        "cavern_api_approach", description="Default approach to staging files"
    )
    supported_approaches: CommaList = Field(
        default=["cavern_api_approach"], description="Approaches that requests may select"
    )
    cavern_api_url: str = Field("https://haproxy.cadc.dao.nrc.ca/src/cavern", description="Cavern's base URL")
    cavern_api_token: SecretStr = Field(
        SecretStr(""),
        description="Token of Cavern's administrator, if the service's OAuth client cannot get one",
    )
    abs_url_rse_root: str = Field("http://rse-web:80/rse/deterministic", description="URL of the RSE's root")
    preparer_rucio_url: str = Field(
        "",
        description="Rucio server that resolves DIDs, so that datasets and containers may be requested; https",
    )
    preparer_rucio_ca_file: str = Field(
        "", description="PEM file of the authorities by which it is verified, instead of the deployment's"
    )
    preparer_rucio_account: str = Field(
        "",
        description="Rucio account of this service; without one, Rucio is asked with the token of the user",
    )
    preparer_rucio_username: str = Field(
        "",
        description="Name with which the account is used, with its password; without one, Rucio is asked with a token"
        " of the service's own OAuth client",
    )
    preparer_rucio_password: SecretStr = Field(SecretStr(""), description="Password of that name")
    preparer_rucio_audience: str = Field(
        "",
        description="Audience of tokens for Rucio; users' own tokens are exchanged for it where there is no account",
    )
    preparer_rucio_scope: str = Field("", description="Scopes of tokens for Rucio, separated by spaces")
    preparer_rses: StorageElements = Field(
        default=[],
        description="RSEs that files are staged from, in the order of preference; without any, there is one, called"
        " default, at abs_url_rse_root",
    )
    preparer_pull_proof: SecretStr = Field(
        SecretStr(""),
        description="Secret that authenticates this service's pulls to Cavern, which then uses the credentials of RSEs",
    )
    abs_path_rse_root: Path = Field(
        Path("/rse_data/deterministic"), description="Directory of the RSE's root where it is mounted"
    )
    abs_path_user_area_root: Path = Field(
        Path("/users/cavern/home"), description="Directory of the users' areas where they are mounted"
    )
    abs_path_celery_results: Path = Field(
        Path("/results"), description="Directory for the receipts of finished requests"
    )
    celery_broker_url: str = Field(
        "amqp://preparer@localhost:5672//", description="URL of the broker, without the password"
    )
    celery_broker_password: SecretStr = Field(SecretStr(""), description="Password of the broker's user")
    api_root_path: str = Field("", description="Path below which a proxy serves the API")

    preparer_vos_uri: str = Field("vos://opencadc.org~cavern", description="URI of Cavern's root node")
    preparer_home: str = Field("/home", description="Container that holds the users' areas")
    preparer_sources: CommaList = Field(
        default=[],
        description="Base URLs to which the RSE at abs_url_rse_root may redirect, besides its root",
    )
    preparer_path_algorithm: Literal["hash", "identity"] = Field(
        "hash", description="Layout of the RSE at abs_url_rse_root and of the mounted one, as named by Rucio"
    )
    preparer_path_check: Literal["strict", "off"] = Field(
        "strict", description="Whether a file's path must be the one that the layout gives for its DID"
    )
    preparer_credential_key: SecretStr = Field(
        SecretStr(""), description="Fernet key that encrypts users' tokens at rest"
    )
    preparer_credential_lifetime: int = Field(
        604_800, ge=60, description="Lifetime to request for a task's own token, in seconds"
    )
    preparer_callback_key: SecretStr = Field(
        SecretStr(""), description="Key that signs callbacks (HMAC-SHA256)"
    )
    preparer_callback_hosts: CommaList = Field(default=[], description="Hosts that callbacks may be sent to")
    preparer_operator_groups: CommaList = Field(
        default=[], description="Groups whose members may see and cancel all tasks"
    )
    preparer_page_client_id: str = Field(
        "",
        description="OAuth client of the page for browsers, below /ui/, with redirects to /ui/signed-in there; without"
        " one there is no page",
    )
    preparer_page_client_secret: SecretStr = Field(SecretStr(""), description="Secret of that client")
    preparer_page_scope: str = Field(
        "openid profile groups", description="Scopes that the page requests from the issuer"
    )
    preparer_page_audience: str = Field(
        "", description="Audience that the page requests from the issuer, if it takes the parameter audience"
    )
    preparer_page_session: int = Field(
        43_200, ge=60, description="Time after which users of the page must sign in again, in seconds"
    )
    preparer_max_items: int = Field(100_000, ge=1, description="Maximum number of files of a request")
    preparer_max_collections: int = Field(
        1000, ge=0, description="Maximum number of datasets and containers of a request"
    )
    preparer_max_body: int = Field(
        64 * 2**20, ge=1024, description="Maximum size of a request's body, in bytes"
    )
    preparer_max_active: int = Field(1000, ge=1, description="Maximum number of unfinished tasks of one user")
    preparer_max_rate: int = Field(
        6000, ge=1, description="Maximum requests per minute of one user, in each server process"
    )
    preparer_estimate_rate: int = Field(
        60, ge=1, description="Maximum estimates per minute of one user, in each server process"
    )
    preparer_estimate_files: int = Field(
        10_000, ge=1, description="Maximum number of files for which an estimate queries the RSE"
    )
    preparer_user_events: int = Field(
        100, ge=1, description="Maximum concurrent event streams of one user, in each server process"
    )
    preparer_user_tasks: int = Field(4, ge=1, description="Concurrent tasks of one user")
    preparer_site_tasks: int = Field(32, ge=1, description="Concurrent tasks of the site")
    preparer_file_concurrency: int = Field(16, ge=1, description="Concurrent transfers of one task")
    preparer_file_attempts: int = Field(
        5, ge=1, description="Attempts to stage a file before it fails, for errors that may be transient"
    )
    preparer_outage: float = Field(
        900.0,
        ge=0,
        description="Time that Cavern or the RSE may be unavailable before a task fails, in seconds",
    )
    preparer_task_attempts: int = Field(
        20, ge=1, description="Number of workers that may die while running a task before it fails"
    )
    preparer_task_retention: int = Field(
        31_536_000,
        ge=0,
        description="Time for which ended tasks stay in the ledger, in seconds, an hour at least; 0 keeps them for"
        " ever",
    )
    preparer_ledger_files: int = Field(
        0,
        ge=0,
        description="Number of files in the ledger above which the tasks that ended first are removed, but none within"
        " an hour of its end; 0 for any number",
    )
    preparer_tape_delay: float = Field(
        60.0,
        gt=0,
        description="Interval between requests for a file on tape, in seconds, unless the RSE sends Retry-After",
    )
    preparer_tape_wait: float = Field(
        172_800.0, ge=0, description="Maximum time to wait for files on tape before they fail, in seconds"
    )
    preparer_batch: int = Field(20_000, ge=1, description="Files in one bulk job")
    preparer_lease: float = Field(
        30.0,
        ge=1,
        description="Time without a heartbeat after which another worker takes over a worker's tasks, in seconds",
    )
    preparer_poll: float = Field(
        3.0,
        gt=0,
        description="Interval at which the worker looks for tasks without a message, in seconds",
    )
    preparer_retry_delay: float = Field(
        1.0,
        gt=0,
        description="Delay before a file is retried, in seconds; it doubles with each attempt",
    )
    preparer_retry_delay_max: float = Field(
        60.0, gt=0, description="Maximum delay before a file is retried, in seconds"
    )
    preparer_worker_name: str = Field(
        default_factory=lambda: uuid.uuid4().hex[:12], description="Name of this worker"
    )

    @cached_property
    def rses(self) -> list[StorageElement]:
        """RSEs that files are staged from, in the order of preference."""
        return self.preparer_rses or [
            StorageElement(
                name="default",
                url=self.abs_url_rse_root,
                redirects=self.preparer_sources,
                layout=self.preparer_path_algorithm,
            )
        ]

    @property
    def exchanged_lifetime(self) -> int:
        """Lifetime to request for a task's own token, in seconds."""
        return self.preparer_credential_lifetime

    def home_of(self, username: str) -> str:
        """Return the path of a user's area."""
        return f"{self.preparer_home}/{username}"

    @model_validator(mode="after")
    def _rucio(self) -> Self:
        username, password = self.preparer_rucio_username, self.preparer_rucio_password.get_secret_value()
        if (username or password) and not (self.preparer_rucio_account and username and password):
            raise ValueError(
                "preparer_rucio_account, preparer_rucio_username and preparer_rucio_password: give all three"
            )
        if username and (self.preparer_rucio_audience or self.preparer_rucio_scope):
            raise ValueError(
                "preparer_rucio_audience, preparer_rucio_scope: no token is needed with preparer_rucio_username"
            )
        return self

    @field_validator("preparer_task_retention")
    @classmethod
    def _readable(cls, value: int) -> int:
        if 0 < value < RESULT_SECONDS:
            raise ValueError(
                f"at least {RESULT_SECONDS}, for clients to read the result, or 0 to keep tasks for ever"
            )
        return value

    @field_validator("preparer_page_scope")
    @classmethod
    def _identifies(cls, value: str) -> str:
        if "openid" not in value.split():
            raise ValueError("openid is missing: without it the issuer does not say who has signed in")
        return value

    @field_validator("abs_url_rse_root", "preparer_sources")
    @classmethod
    def _source(cls, value: str | list[str]) -> str | list[str]:
        SourcePolicy([value] if isinstance(value, str) else value)
        return value

    @field_validator("cavern_api_url", "abs_url_rse_root", "api_root_path")
    @classmethod
    def _no_slash(cls, value: str) -> str:
        return value.rstrip("/")

    @field_validator("preparer_rucio_url")
    @classmethod
    def _confidential(cls, value: str) -> str:
        return confidential_base(value) if value else value
