# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings running services to the wanted state one at a time, each with a way back. Private to the collection.

What a service had stays beside what it gets until that is healthy: its container, stopped and renamed, and so its
image, and a copy of its configuration. If the new one does not become healthy, both come back.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils import _converge_plan as planning
from ansible_collections.skasrc.cavern.plugins.module_utils import _files
from ansible_collections.skasrc.cavern.plugins.module_utils._converge_engine import (
    ConvergeError,
    Converger,
    Service,
    docker_errors,
)

FORMER = "-former"


def discard(directory: Path) -> None:
    """Remove a directory if there is one."""
    if directory.exists():
        shutil.rmtree(directory)


def keep_directory(source: Path, kept: Path) -> None:
    """Copy a directory with its owners, permissions and times; nothing if there is none."""
    discard(kept)
    if not source.is_dir():
        return
    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copytree(source, kept, symlinks=True)
    if os.geteuid() == 0:
        for path in (source, *source.rglob("*")):
            status = path.lstat()
            os.chown(kept / path.relative_to(source), status.st_uid, status.st_gid, follow_symlinks=False)


def bring_back_directory(kept: Path, place: Path) -> None:
    """Put the kept copy in its place again; where none was kept there was no directory."""
    discard(place)
    if kept.is_dir():
        kept.rename(place)


class Upgrader(Converger):
    """One run over one project, a service at a time in the order of their dependencies."""

    def act(self) -> None:
        """Carry out what `look` decided; the first service that fails gets back what it had, and ends the run."""
        if self._network_action == "recreate":
            raise ConvergeError(
                f"network {self.network['name']} must be made anew, which takes every service away at once; "
                "run site.yml for that"
            )
        for container in self.surplus:
            self._remove(container["Id"])
        if self._network_action:
            self._make_network()
        if self._connections:
            self._connections.act()
        order = planning.waves(
            {name: service.spec.get("depends_on") or [] for name, service in self.services.items()}
        )
        upgraded: list[str] = []
        left = [name for wave in order for name in wave]
        while left:
            service = self.services[left.pop(0)]
            failure = self._upgrade(service)
            if failure:
                raise ConvergeError(
                    f"{service.name}: {failure}\n"
                    f"Upgraded before it and kept: {', '.join(upgraded) or 'none'}. "
                    f"Not reached: {', '.join(name for name in left if self.services[name].action) or 'none'}."
                )
            if service.action:
                upgraded.append(service.name)

    def _upgrade(self, service: Service) -> str | None:
        """Bring one service to the wanted state; what went wrong, if it had to be taken back."""
        place = Path(self.params["config_dir"], service.name)
        kept = Path(self.params["config_dir"], ".former", service.name)
        former = service.inspect
        try:
            keep_directory(place, kept)
            try:
                self._prepare(service)
                self._replace(service)
                self._gate(service)
            except (ConvergeError, docker_errors.DockerException, OSError) as exc:
                reason = str(getattr(exc, "explanation", None) or exc)
                return f"{reason}\n{self._take_back(service, former, place, kept)}"
            if former is not None and service.action == "recreate":
                self._remove(former["Id"])
        finally:
            discard(kept)
        return None

    def _replace(self, service: Service) -> None:
        """Do what is to be done, but keep the container that is replaced."""
        if service.action == "recreate" and service.inspect is not None:
            self.client.stop(service.inspect["Id"])
            self.client.rename(service.inspect["Id"], service.container + FORMER)
            service.inspect = None
        self._apply(service)

    def _gate(self, service: Service) -> None:
        """Wait for the health of a service, and of those that need it."""
        self._deadline = time.monotonic() + self.params["timeout"]
        self._await_health(service)
        if not service.action:
            return
        for other in self.services.values():
            # What was not running before cannot tell.
            running = other.inspect is not None and other.inspect["State"]["Status"] == "running"
            if running and service.name in (other.spec.get("depends_on") or []):
                self._await_health(other, fresh=True)

    def _take_back(self, service: Service, former: dict[str, Any] | None, place: Path, kept: Path) -> str:
        """Give the service what it had, and say how that went."""
        try:
            if service.action in ("create", "recreate"):
                made = self._inspect(service.container)
                if made is not None and (former is None or made["Id"] != former["Id"]):
                    self._remove(made["Id"])
            bring_back_directory(kept, place)
            for change in service.handed_over:
                _files.hand_over(change.place, change.owner, change.former)
            if former is None:
                return "Rolled back: it was not there before and is not now."
            if service.action == "recreate":
                if self.client.inspect_container(former["Id"])["Name"] != f"/{service.container}":
                    self.client.rename(former["Id"], service.container)
                self.client.start(former["Id"])
            else:
                self.client.restart(former["Id"], timeout=service.options.get("stop_timeout", 10))
            self._gate(service)
        except (ConvergeError, docker_errors.DockerException, OSError) as exc:
            return (
                f"It could not be rolled back either: {getattr(exc, 'explanation', None) or exc}; "
                f"what it had is the container {service.container} or {service.container}{FORMER}"
            )
        return "Rolled back: it runs its former image and configuration again and is healthy."
