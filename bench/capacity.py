"""How many operations a second a deployment can do, from what each of its parts takes for one of them.

The rate is the least of these:

- what a part's own cores do: those that its pods can use, less what they take without any operation, divided by the CPU
  seconds that an operation takes there;
- what all cores of the machines do, with the parts together;
- what goes one after the other, such as the flushes of a database's log: one over the seconds of an operation.

It holds as long as somebody always has work for the cores, an operation costs the same however many there are, pods
share the work evenly, and machines can be added without the network or the shared file system becoming slower.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ALL = "all cores"


@dataclass(frozen=True)
class Part:
    """A service, or whatever else takes time of the cores."""

    name: str
    cpu: float
    """CPU seconds of an operation, in all pods together."""
    pods: float = 1
    idle: float = 0.0
    """Cores that each pod takes without any operation."""
    most: float = math.inf
    """Cores that a pod can use; a process of Python uses one."""


@dataclass(frozen=True)
class Machines:
    """What pods run on."""

    count: int
    cores: float


@dataclass(frozen=True)
class Prediction:
    """Operations per second, and what keeps them from being more."""

    rate: float
    limit: str
    limits: Mapping[str, float]


def predict(parts: Sequence[Part], machines: Machines, serial: Mapping[str, float]) -> Prediction:
    """Return the rate with *parts* on *machines*; *serial* has seconds of an operation that nothing runs beside.

    A pod uses the cores of one machine at most. Raises ValueError where nothing limits the rate.
    """
    total = machines.count * machines.cores
    limits = {
        part.name: (min(part.pods * min(part.most, machines.cores), total) - part.pods * part.idle) / part.cpu
        for part in parts
        if part.cpu > 0
    }
    if cpu := sum(part.cpu for part in parts):
        limits[ALL] = (total - sum(part.pods * part.idle for part in parts)) / cpu
    limits |= {name: 1 / seconds for name, seconds in serial.items() if seconds > 0}
    if not limits:
        raise ValueError("no part takes any time")
    limit = min(limits, key=lambda name: limits[name])
    return Prediction(max(limits[limit], 0.0), limit, limits)
