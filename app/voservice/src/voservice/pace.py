"""The rate at which a client reads a response."""

from __future__ import annotations

import asyncio
import logging

logger = logging.getLogger(__name__)


class ResponsePace:
    """Aborts a connection whose client reads too slowly, to release the response and the code that produces it.

    Only time spent waiting for the client counts: over each *patience* seconds of it, the client must read *pace* bytes
    per second. For a client behind a proxy this measures the proxy, which reads in bursts as large as the buffers in
    between, so *patience* should be long.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, patience: float, pace: int
    ) -> None:
        """Watch the client at the other end of *transport*."""
        self._transport = transport
        self._loop = loop
        self._patience = patience
        self._least = patience * pace
        self._timer: asyncio.TimerHandle | None = None
        # Current period: seconds of waiting, bytes read, and time and remaining bytes of the last count.
        self._waited = 0.0
        self._taken = 0
        self._since = 0.0
        self._left = 0

    def begin(self) -> None:
        """Reset for another request's response: a proxy uses one connection for many clients."""
        if self._timer is None:
            self._waited, self._taken = 0.0, 0

    def pause(self) -> None:
        """Start waiting for the client: the transport's buffer is full."""
        if self._timer is None:
            self._since, self._left = self._loop.time(), self._transport.get_write_buffer_size()
            self._timer = self._loop.call_later(self._patience - self._waited, self._check)

    def resume(self) -> None:
        """Stop waiting: the transport accepts more data, or the connection has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._count()

    def _count(self) -> None:
        now, left = self._loop.time(), self._transport.get_write_buffer_size()
        self._waited += now - self._since
        self._taken += self._left - left
        self._since, self._left = now, left

    def _check(self) -> None:
        self._count()
        if self._taken < self._least:
            self._timer = None
            logger.warning(
                "a response was cut off: its client took %d bytes in %.0f s", self._taken, self._waited
            )
            self._transport.abort()
            return
        self._waited, self._taken = 0.0, 0
        self._timer = self._loop.call_later(self._patience, self._check)
