"""The vocabulary of VOSpace 2.1 and UWS 1.1, with what OpenCADC and this project add to it."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

# Namespaces of XML documents.

VOS = "http://www.ivoa.net/xml/VOSpace/v2.0"
"""VOSpace 2.0 and 2.1; the version is an attribute of a document."""
XSI = "http://www.w3.org/2001/XMLSchema-instance"
XLINK = "http://www.w3.org/1999/xlink"

# Standard identifiers, by which a service's capabilities name its endpoints.

NODES = "ivo://ivoa.net/std/VOSpace/v2.0#nodes"
FILES = "ivo://ivoa.net/std/VOSpace#files-proto"
TRANSFERS = "ivo://ivoa.net/std/VOSpace/v2.0#transfers"
SYNCTRANS = "ivo://ivoa.net/std/VOSpace#sync-2.1"
RECURSIVE_PROPERTIES = "ivo://ivoa.net/std/VOSpace#recursive-nodeprops-proto"
RECURSIVE_DELETE = "ivo://ivoa.net/std/VOSpace#recursive-delete-proto"
PACKAGE = "vos://cadc.nrc.ca~vospace/CADC/std/Pkg-1.0"
BULK_PULL = "ivo://skao.int/std/VOSpace#bulk-pull-1.0"

# Properties of nodes; LENGTH, MD5 and ADLER32 are parameters of transfers too.

CORE = "ivo://ivoa.net/vospace/core#"
"""Beginning of the identifiers that VOSpace defines."""
CADC = "ivo://cadc.nrc.ca/vospace/core#"
"""Beginning of those that OpenCADC adds."""
SKAO = "ivo://skao.int/vospace/core#"
"""Beginning of those that this project adds."""
LENGTH = f"{CORE}length"
MD5 = f"{CORE}MD5"
ADLER32 = f"{SKAO}adler32"
TYPE = f"{CORE}type"
ENCODING = f"{CORE}encoding"
FORMAT = f"{CORE}format"
TITLE = f"{CORE}title"
DATE = f"{CORE}date"
CONTENT_DATE = f"{CORE}content-date"
CREATOR = f"{CORE}creator"
QUOTA = f"{CORE}quota"
AVAILABLE_SPACE = f"{CORE}availableSpace"
PUBLIC = f"{CORE}ispublic"
GROUP_READ = f"{CORE}groupread"
GROUP_WRITE = f"{CORE}groupwrite"
INHERIT = f"{CADC}inheritPermissions"
LOCKED = f"{CADC}islocked"
READABLE = f"{CADC}readable"
WRITABLE = f"{CADC}writable"

# Transfers: directions, protocols and views (VOSpace 2.1 sections 3.3 to 3.6).

PUSH_TO = "pushToVoSpace"
PULL_TO = "pullToVoSpace"
PUSH_FROM = "pushFromVoSpace"
PULL_FROM = "pullFromVoSpace"
BIDIRECTIONAL = "ivo://cadc.nrc.ca/vospace#biDirectional"
HTTP_GET = f"{CORE}httpget"
HTTPS_GET = f"{CORE}httpsget"
HTTP_PUT = f"{CORE}httpput"
HTTPS_PUT = f"{CORE}httpsput"
VIEW_DEFAULT = f"{CORE}defaultview"
VIEW_DATA = "ivo://cadc.nrc.ca/vospace/view#data"
VIEW_PACKAGE = PACKAGE


class ExecutionPhase(StrEnum):
    """Phase of a job (UWS 1.1 section 2.1.3)."""

    PENDING = "PENDING"
    QUEUED = "QUEUED"
    EXECUTING = "EXECUTING"
    COMPLETED = "COMPLETED"
    ERROR = "ERROR"
    UNKNOWN = "UNKNOWN"
    HELD = "HELD"
    SUSPENDED = "SUSPENDED"
    ABORTED = "ABORTED"
    ARCHIVED = "ARCHIVED"

    @property
    def active(self) -> bool:
        """Whether a client that WAITs is made to wait (UWS 1.1 section 2.2.1.2)."""
        return self in ACTIVE_PHASES

    @property
    def final(self) -> bool:
        """Whether the job has ended."""
        return self in FINAL_PHASES


ACTIVE_PHASES = frozenset({ExecutionPhase.PENDING, ExecutionPhase.QUEUED, ExecutionPhase.EXECUTING})
FINAL_PHASES = frozenset(
    {ExecutionPhase.COMPLETED, ExecutionPhase.ERROR, ExecutionPhase.ABORTED, ExecutionPhase.ARCHIVED}
)
UNFINISHED_PHASES = frozenset(ExecutionPhase) - FINAL_PHASES
"""Phases of a job that may still change."""
STARTABLE_PHASES = frozenset({ExecutionPhase.PENDING, ExecutionPhase.HELD})
"""Phases in which a job waits until it is told to run."""

# Faults (VOSpace 2.1 section 5.5, and those of Cavern): the first word of an error's text.

FAULT_BY_STATUS = {
    401: "NotAuthenticated",
    403: "PermissionDenied",
    404: "NodeNotFound",
    409: "DuplicateNode",
    412: "ChecksumMismatch",
    413: "QuotaExceeded",
    423: "NodeLocked",
}
"""The fault that an HTTP status means if the text names none."""
NODE_MISSING = frozenset({"NodeNotFound", "ContainerNotFound"})
JOB_MISSING = frozenset({"NodeNotFound", "JobNotFound"})
ON_TAPE = "StagingFromTape"
"""Fault of a source that has the file on tape and has begun to bring it to disk: it is asked again later."""
TRANSIENT_FAULTS = frozenset(
    {"NodeBusy", "NodeLocked", "ServiceBusy", "TransientException", "TransferFailed", ON_TAPE}
)
"""Faults of a job after which another try may succeed."""

PULL_PROOF = "X-Pull-Proof"
"""Header by which prepare-data proves that a pull is its own, so that credentials of storage elements may be used."""

Unavailable = Literal["source"]
"""Value of the field ``away`` in the results of a bulk pull: what did not answer."""
