"""Tasks and files as the service reports them, and files as a client asks for them.

Times are aware datetimes (UTC), sizes bytes, durations seconds. `raw` keeps the service's own document.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from prepare_data_client.did import DID, Algorithm, InvalidDID, InvalidPath, destination
from prepare_data_client.errors import InvalidItem

FINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "LOST"})
TASK_STATES = ("QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED", "LOST")
FILE_STATES = ("PENDING", "STAGING_FROM_TAPE", "STAGED", "PRESENT", "FAILED", "CANCELLED", "RELEASED")

CHECKSUM_DIGITS = {"md5": 32, "adler32": 8}


def _time(value: Any) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else None


@dataclass(frozen=True)
class Item:
    """A file to stage: its DID, its path below the RSE's root, and the directory in the user's area it goes to.

    Size (bytes) and checksums (hexadecimal), where known, are compared with what arrives.
    """

    did: str
    path: str
    destination: str | None = None
    size: int | None = None
    md5: str | None = None
    adler32: str | None = None

    @classmethod
    def of(cls, did: str, *, path: str | None = None, algorithm: Algorithm = "hash", **rest: Any) -> Item:
        """Validate a file; a missing path is derived by the RSE's deterministic *algorithm*. Raises `InvalidItem`."""
        try:
            identifier = DID.parse(did)
        except InvalidDID as exc:
            raise InvalidItem(str(exc)) from exc
        for name, check, value in (
            ("path", identifier.check, path),
            ("destination", destination, rest.get("destination")),
        ):
            try:
                if value is not None:
                    check(value)
            except InvalidPath as exc:
                raise InvalidItem(f"{did}: {name} {value!r}: {exc}") from exc
        for algorithm_name, digits in CHECKSUM_DIGITS.items():
            value = rest.get(algorithm_name)
            if value is None:
                continue
            rest[algorithm_name] = str(value).lower()
            if len(rest[algorithm_name]) != digits or set(rest[algorithm_name]) - set("0123456789abcdef"):
                raise InvalidItem(
                    f"{did}: {algorithm_name} must be {digits} hexadecimal digits, not {value!r}"
                )
        size = rest.get("size")
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 0):
            raise InvalidItem(f"{did}: size must be a whole number of bytes, not {size!r}")
        return cls(str(identifier), path if path is not None else identifier.path(algorithm), **rest)

    def document(self) -> dict[str, Any]:
        """Return the wire form, without what is not known."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class File:
    """State of one file of a task."""

    number: int
    did: str
    path: str
    target: str
    state: str
    bytes: int | None
    size: int | None
    md5: str | None
    adler32: str | None
    fault: str | None
    detail: str | None
    attempts: int
    finished: datetime | None
    rse: str | None
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def load(cls, document: Mapping[str, Any]) -> File:
        """Read the wire form."""
        get = document.get
        return cls(
            number=int(document["number"]),
            did=str(document["did"]),
            path=str(get("path") or ""),
            target=str(get("target") or ""),
            state=str(document["state"]),
            bytes=get("bytes"),
            size=get("size"),
            md5=get("md5"),
            adler32=get("adler32"),
            fault=get("fault"),
            detail=get("detail"),
            attempts=int(get("attempts") or 0),
            finished=_time(get("finished")),
            rse=get("rse"),
            raw=document,
        )

    @property
    def reason(self) -> str:
        """Why the file failed: the fault's name and its detail."""
        return ": ".join(filter(None, (self.fault, self.detail)))


@dataclass(frozen=True)
class Task:
    """State of a task."""

    id: str
    state: str
    info: str | None
    files: int
    files_done: int
    files_failed: int
    bytes_done: int
    bytes_total: int | None
    approach: str | None
    created: datetime | None
    started: datetime | None
    finished: datetime | None
    expires: datetime | None
    cancel: bool
    raw: Mapping[str, Any] = field(repr=False, compare=False)
    existing: bool = field(default=False, compare=False)

    @classmethod
    def load(cls, document: Mapping[str, Any], *, existing: bool = False) -> Task:
        """Read the wire form; *existing* says that a submission found the task under way."""
        get = document.get
        return cls(
            id=str(document["id"]),
            state=str(document["state"]),
            info=get("info"),
            files=int(get("files") or 0),
            files_done=int(get("files_done") or 0),
            files_failed=int(get("files_failed") or 0),
            bytes_done=int(get("bytes_done") or 0),
            bytes_total=get("bytes_total"),
            approach=get("approach"),
            created=_time(get("created")),
            started=_time(get("started")),
            finished=_time(get("finished")),
            expires=_time(get("expires")),
            cancel=bool(get("cancel")),
            raw=document,
            existing=existing,
        )

    @property
    def final(self) -> bool:
        """Whether the state cannot change any more, other than by a retry."""
        return self.state in FINAL

    @property
    def succeeded(self) -> bool:
        """Whether every file is there and verified."""
        return self.state == "SUCCEEDED"


@dataclass(frozen=True)
class Estimate:
    """What a request would cost.

    *bytes* and *seconds* are those still to go, *present* counts the files in place already, *missing* has the DIDs
    that the RSE does not have, *unknown* those whose size it does not state, which *bytes* excludes, and *quota_left*
    is in bytes; None without a quota.
    """

    files: int
    bytes: int | None
    present: int
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    quota_left: int | None
    seconds: float | None
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def load(cls, document: Mapping[str, Any]) -> Estimate:
        """Read the wire form."""
        get = document.get
        return cls(
            files=int(get("files") or 0),
            bytes=get("bytes"),
            present=int(get("present") or 0),
            missing=tuple(get("missing") or ()),
            unknown=tuple(get("unknown") or ()),
            quota_left=get("quota_left"),
            seconds=get("seconds"),
            raw=document,
        )

    @property
    def fits(self) -> bool | None:
        """Whether the files fit into the quota; None if that is not known."""
        if self.quota_left is None or self.bytes is None:
            return None
        if self.bytes > self.quota_left:
            return False
        return None if self.unknown else True
