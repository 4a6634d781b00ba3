"""The pace at which a client takes a response."""

from __future__ import annotations

import asyncio
import logging

logger = logging.getLogger(__name__)


class ResponsePace:
    """Aborts a connection whose client hardly reads, so that it holds neither the response nor whoever makes it.

    Only the time counts in which more is to be sent than the client takes: each *patience* seconds of it must take
    *pace* bytes for each of them. Of a client behind a proxy this is what the proxy takes, in bursts as large as the
    buffers in between, so *patience* is to be long.
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
        # Of this round: seconds of waiting and bytes taken, and when and at how many bytes left they were counted.
        self._waited = 0.0
        self._taken = 0
        self._since = 0.0
        self._left = 0

    def begin(self) -> None:
        """Begin anew with another request's response: a proxy gives one connection to many clients."""
        if self._timer is None:
            self._waited, self._taken = 0.0, 0

    def pause(self) -> None:
        """Wait for the client: the transport holds more than it should."""
        if self._timer is None:
            self._since, self._left = self._loop.time(), self._transport.get_write_buffer_size()
            self._timer = self._loop.call_later(self._patience - self._waited, self._judge)

    def resume(self) -> None:
        """Wait no longer: the transport takes more, or the connection has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._count()

    def _count(self) -> None:
        now, left = self._loop.time(), self._transport.get_write_buffer_size()
        self._waited += now - self._since
        self._taken += self._left - left
        self._since, self._left = now, left

    def _judge(self) -> None:
        self._count()
        if self._taken < self._least:
            self._timer = None
            logger.warning(
                "a response was cut off: its client took %d bytes in %.0f s", self._taken, self._waited
            )
            self._transport.abort()
            return
        self._waited, self._taken = 0.0, 0
        self._timer = self._loop.call_later(self._patience, self._judge)
