"""A limit on wrong attempts, by the address that they come from."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from ipaddress import ip_address, ip_network

PERIOD = 60.0
MOST_ADDRESSES = 10_000


class Attempts:
    """Counts wrong attempts of the last minute; an IPv6 client counts by its network of 64 bits."""

    def __init__(self, most: int) -> None:
        """Allow *most* a minute from one address."""
        self._most = most
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()

    def wait(self, address: str) -> int:
        """Return the seconds after which that address may try again, 0 if it may now."""
        wrong, now = self._wrong.get(_place(address), deque()), time.monotonic()
        while wrong and wrong[0] <= now - PERIOD:
            wrong.popleft()
        return 0 if len(wrong) < self._most else int(wrong[0] + PERIOD - now) + 1

    def note(self, address: str) -> None:
        """Count a wrong attempt."""
        place = _place(address)
        self._wrong.setdefault(place, deque(maxlen=self._most)).append(time.monotonic())
        self._wrong.move_to_end(place)
        while len(self._wrong) > MOST_ADDRESSES:
            self._wrong.popitem(last=False)


def _place(address: str) -> str:
    try:
        known = ip_address(address)
    except ValueError:
        return address
    return str(ip_network(f"{known}/64", strict=False)) if known.version == 6 else address
