"""What the Rucio Storage Element says of a file when asked by HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from urllib.parse import quote

import aiohttp

from preparer.faults import AWAY_STATUS, PASSING_STATUS, TransferError, is_away, seconds_asked

# RFC 3230: dCache, StoRM and XRootD tell the checksums that they keep to those who ask.
WANT_DIGEST = {"Want-Digest": "adler32, md5;q=0.9"}
MISSING = {404, 410}


class RseError(Exception):
    """The storage element does not answer, or not as one that has or has not the file."""


@dataclass(frozen=True)
class Source:
    """A file on the RSE: its size in bytes, and when it was changed, where that was asked."""

    size: int
    modified: datetime | None = None


def url(root: str, path: str) -> str:
    """URL of the file at *path* below the *root* of the RSE."""
    return f"{root}/{quote(path)}"


async def head(session: aiohttp.ClientSession, source: str) -> Source | None:
    """Ask for the size of the file behind *source*; None if there is none. Raises `RseError`."""
    try:
        async with session.head(source) as answer:
            if answer.status in MISSING:
                return None
            if answer.status != 200:
                raise RseError(f"the RSE answered {answer.status}")
            modified = answer.headers.get("Last-Modified")
            return Source(
                int(answer.headers.get("Content-Length", 0)),
                parsedate_to_datetime(modified) if modified else None,
            )
    except (aiohttp.ClientError, TimeoutError, ValueError) as exc:
        raise RseError(f"the RSE does not answer: {type(exc).__name__}") from exc


@asynccontextmanager
async def opened(session: aiohttp.ClientSession, source: str) -> AsyncIterator[aiohttp.ClientResponse]:
    """The RSE's answer with the bytes of the file behind *source* to come. Raises `TransferError`."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
    headers = {"Accept-Encoding": "identity", **WANT_DIGEST}
    try:
        async with session.get(source, timeout=timeout, allow_redirects=False, headers=headers) as answer:
            if answer.status in MISSING:
                raise TransferError("SourceNotFound", f"{source} does not exist on the RSE")
            if answer.status != 200:
                raise TransferError(
                    "TransferFailed",
                    f"the RSE answered {answer.status}",
                    transient=answer.status in PASSING_STATUS,
                    away="RSE" if answer.status in AWAY_STATUS else None,
                    retry_after=seconds_asked(answer.headers.get("Retry-After")),
                )
            yield answer
    except (aiohttp.ClientError, TimeoutError) as exc:
        raise unanswered(exc) from exc


def unanswered(exc: Exception) -> TransferError:
    """Error of a request to the RSE that got no answer, or only a part of one."""
    return TransferError(
        "TransferFailed",
        f"the RSE: {exc or type(exc).__name__}",
        transient=True,
        away="RSE" if is_away(exc) else None,
    )
