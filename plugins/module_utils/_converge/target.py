# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sources of a container's options: the wanted service and the existing container.

Private to the collection.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils import _engine
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.arguments import Argument
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.errors import PlanError

Document = dict[str, Any]

_UNITS = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}


def size(text: Any) -> int:
    """Return the bytes of a size such as 256m, 0 for none. Raises PlanError."""
    if text in (None, ""):
        return 0
    match = re.fullmatch(r"(\d+)\s*([bkmgt]?)b?", str(text).strip().lower())
    if not match:
        raise PlanError(f"{text!r} is not a size such as 256m or 1g")
    return int(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True)
class Target:
    """A service as the module is given it, and the deployment that its container belongs to."""

    spec: dict[str, Any]
    project: str
    network: str
    config_dir: str
    places: _engine.Places = _engine.HERE

    @property
    def config_mounts(self) -> list[dict[str, Any]]:
        """Mount of the service's configuration directory, if it has files."""
        if not self.spec.get("files"):
            return []
        return [
            {
                "type": "bind",
                "source": f"{self.config_dir}/{self.spec['name']}",
                "target": self.spec["config_target"],
                "read_only": True,
            }
        ]

    @property
    def mounts(self) -> list[dict[str, Any]]:
        """Bind mounts and volumes, the configuration included."""
        return [self._placed(mount) for mount in self._mounts() if mount["type"] != "tmpfs"]

    @property
    def tmpfs(self) -> list[dict[str, Any]]:
        """Mounts of file systems in memory."""
        return [mount for mount in self._mounts() if mount["type"] == "tmpfs"]

    def _placed(self, mount: dict[str, Any]) -> dict[str, Any]:
        """Return a mount with its source as the Engine finds it."""
        if mount["type"] != "bind":
            return mount
        # What is in none of the container's mounts is a path of the Engine's machine already.
        return mount | {"source": self.places.find(mount["source"]) or mount["source"]}

    def _mounts(self) -> list[dict[str, Any]]:
        return self.config_mounts + (self.spec.get("mounts") or [])


@dataclass(frozen=True)
class Container:
    """A container as `docker inspect` shows it, beside the wanted values of its options.

    `image` is its inspected image, None if that is unknown.
    """

    inspect: Document
    wanted: dict[str, Any]
    image: Document | None = None

    @property
    def config(self) -> Document:
        """The configuration that is independent of the host."""
        found: Document = self.inspect["Config"]
        return found

    @property
    def host(self) -> Document:
        """The configuration that depends on the host."""
        found: Document = self.inspect["HostConfig"]
        return found

    @property
    def networks(self) -> Document:
        """Endpoints by the name of the network."""
        return self.inspect["NetworkSettings"]["Networks"] or {}

    @property
    def endpoint(self) -> Document:
        """Endpoint in the network of the deployment."""
        return self.networks.get(self.wanted["network"]) or {}


@dataclass(frozen=True)
class Option:
    """One option of a container, by the name that reports give it."""

    name: str
    wanted: Callable[[Target], Any]
    """Value that a service wants; None leaves the option to the image."""
    active: Callable[[Container], Any]
    """Value that a container has, comparable with the wanted one."""
    create: Callable[[Document, Any, Target], None]
    """Write a wanted value into the body of the Engine's create call."""
    compose: Callable[[Document, Any, Target], None]
    """Write a wanted value into a service of a Compose file."""
    argument: Argument | None = None
    """The module's option; None if it is derived from other options."""
