"""Sending one file to an HTTP destination by PUT (VOSpace 2.1 section 3.6.4, pushFromVoSpace)."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
from collections.abc import AsyncIterator

import aiohttp
from voservice.answers import field_value
from voservice.sources import SourcePolicy, SourceRefused, reason, show_all
from vospace_client import terms

from vospace.models.errors import TransferFailed
from vospace.space.lookup import OpenFile
from vospace.storage.threads import in_thread
from vospace.transfers.fetcher import PASSING_STATUS, FetchLimits

logger = logging.getLogger(__name__)
BLOCK = 1 << 20


class Sender:
    """Sends files by one session; redirects are not followed."""

    def __init__(self, session: aiohttp.ClientSession, policy: SourcePolicy, limits: FetchLimits) -> None:
        self._session = session
        self._policy = policy
        self._limits = limits

    async def send(self, opened: OpenFile, url: str) -> None:
        """Raises TransferFailed."""
        try:
            destination = self._policy.check(url)
        except SourceRefused as error:
            raise TransferFailed("InvalidArgument", str(error)) from error
        size = opened.status.stat.st_size
        headers = {"Content-Length": str(size)}
        if (md5 := opened.properties.get(terms.MD5)) is not None:
            headers["Digest"] = "md5=" + base64.b64encode(bytes.fromhex(md5)).decode()
        if (kind := field_value(opened.properties.get(terms.TYPE))) is not None:
            headers["Content-Type"] = kind
        if (encoding := field_value(opened.properties.get(terms.ENCODING))) is not None:
            headers["Content-Encoding"] = encoding
        for attempt in range(1, self._limits.attempts + 1):
            try:
                async with self._session.put(
                    destination, data=_blocks(opened.descriptor, size), headers=headers, allow_redirects=False
                ) as response:
                    if response.status in (200, 201, 204):
                        return
                    problem = (
                        f"destination answered {response.status} {show_all(response.reason or '')}".strip()
                    )
                    if response.status not in PASSING_STATUS:
                        raise TransferFailed("TransferFailed", problem)
            except (TimeoutError, aiohttp.ClientError, OSError) as error:
                problem = reason(error)
            if attempt < self._limits.attempts:
                logger.info("sending to %s failed, again: %s", destination.host, problem)
                await asyncio.sleep(min(self._limits.backoff * 2 ** (attempt - 1), self._limits.backoff_max))
        raise TransferFailed("TransferFailed", problem, transient=True)


async def _blocks(descriptor: int, size: int) -> AsyncIterator[bytes]:
    position = 0
    while position < size:
        block = await in_thread(os.pread, descriptor, min(BLOCK, size - position), position)
        if not block:
            raise OSError("the file became shorter while it was sent")
        position += len(block)
        yield block
