# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One service of a run, with what is wanted, what was found and what is to be done. Private to the collection."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils._converge.errors import PlanError
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.files import FilePlan
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.target import Target


@dataclass(frozen=True)
class Renewed:
    """Objects that earlier phases would replace, so that check mode can predict the effect on services."""

    files: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()


@dataclass(frozen=True)
class OwnerChange:
    """A volume that goes from one user to another, both as uid."""

    volume: str
    path: Path
    former: int
    owner: int


@dataclass
class Service:
    """A service, and what a run knows of it."""

    target: Target
    options: dict[str, Any]
    """Wanted values of the container's options."""
    files: FilePlan
    inspect: dict[str, Any] | None = None
    """Its container as `docker inspect` shows it."""
    action: str | None = None
    """Action on the container: create, recreate, start, unpause, restart or reload."""
    reasons: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)
    """Volumes to create."""
    owner_changes: list[OwnerChange] = field(default_factory=list)
    health: str = "unknown"
    done: threading.Event = field(default_factory=threading.Event)
    error: str | None = None

    @property
    def spec(self) -> dict[str, Any]:
        """The service as the module was given it."""
        return self.target.spec

    @property
    def name(self) -> str:
        """Key of the service in the catalogue."""
        return str(self.spec["name"])

    @property
    def container(self) -> str:
        """Name of its container."""
        return str(self.spec["container"])

    @property
    def depends_on(self) -> list[str]:
        """Services that must be healthy first."""
        return self.spec.get("depends_on") or []

    @property
    def state(self) -> dict[str, Any]:
        """State of its container, empty if there is none."""
        return (self.inspect or {}).get("State") or {}


def waves(depends: dict[str, list[str]]) -> list[list[str]]:
    """Order services so that each comes after those it depends on. Raises PlanError for a circle.

    Services of one wave do not depend on each other.
    """
    left = {name: {other for other in others if other in depends} for name, others in depends.items()}
    order: list[list[str]] = []
    while left:
        wave = sorted(name for name, others in left.items() if not others)
        if not wave:
            raise PlanError(f"depends_on runs in a circle through {', '.join(sorted(left))}")
        order.append(wave)
        left = {name: others - set(wave) for name, others in left.items() if name not in wave}
    return order
