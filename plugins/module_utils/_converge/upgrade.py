# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Upgrade running services one at a time, with rollback. Private to the collection.

The former container, stopped and renamed, with its image, and a copy of the configuration are kept until the new
container is healthy. If it does not become healthy, both are restored.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils import _docker, _files
from ansible_collections.skasrc.cavern.plugins.module_utils._converge import container
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.errors import ConvergeError
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.project import Converger
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.service import Service, waves

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
    """Restore the kept copy; where none was kept there was no directory."""
    discard(place)
    if kept.is_dir():
        kept.rename(place)


class Upgrader(Converger):
    """One run over one project, a service at a time, dependencies first."""

    def apply(self) -> None:
        """Carry out what `plan` decided; the first service that fails is rolled back, and ends the run.

        Raises ConvergeError.
        """
        if self.network.action == "recreate":
            raise ConvergeError(
                f"network {self.network.name} must be recreated, which stops all services at once; "
                "run site.yml for that"
            )
        self._apply_common()
        order = waves({name: service.depends_on for name, service in self.services.items()})
        left = [self.services[name] for wave in order for name in wave]
        upgraded: list[str] = []
        while left:
            service = left.pop(0)
            failure = self._upgrade(service)
            if failure:
                not_reached = [other.name for other in left if other.action]
                raise ConvergeError(
                    f"{service.name}: {failure}\n"
                    f"Upgraded before it and kept: {', '.join(upgraded) or 'none'}. "
                    f"Not reached: {', '.join(not_reached) or 'none'}."
                )
            if service.action:
                upgraded.append(service.name)

    def _upgrade(self, service: Service) -> str | None:
        """Bring one service to the wanted state; return what failed, if it had to be rolled back."""
        place = Path(self.params["config_dir"], service.name)
        kept = Path(self.params["config_dir"], ".former", service.name)
        former = service.inspect
        try:
            keep_directory(place, kept)
            try:
                self._prepare(service)
                self._replace(service)
                self._verify(service)
            except (ConvergeError, _docker.DockerException, OSError) as error:
                return f"{_docker.explain(error)}\n{self._roll_back(service, former, place, kept)}"
            if former is not None and service.action == "recreate":
                self.engine.remove(former["Id"])
        finally:
            discard(kept)
        return None

    def _replace(self, service: Service) -> None:
        """Carry out the service's action, but keep the container that is replaced."""
        if service.action == "recreate" and service.inspect is not None:
            client = self.engine.client
            client.stop(service.inspect["Id"])
            client.rename(service.inspect["Id"], service.container + FORMER)
            service.inspect = None
        container.apply(service, self.engine)

    def _verify(self, service: Service) -> None:
        """Wait until a service and those that depend on it are healthy."""
        self._deadline = time.monotonic() + self.params["timeout"]
        self._await_health(service)
        if not service.action:
            return
        for other in self.services.values():
            # Those that did not run before say nothing about the upgrade.
            if other.state.get("Status") == "running" and service.name in other.depends_on:
                self._await_health(other, fresh=True)

    def _roll_back(self, service: Service, former: dict[str, Any] | None, place: Path, kept: Path) -> str:
        """Give the service its former container and configuration, and return how that went."""
        try:
            self._remove_new(service, former)
            bring_back_directory(kept, place)
            for change in service.owner_changes:
                _files.hand_over(change.path, change.owner, change.former)
            if former is None:
                return "Rolled back: it was not there before and is not now."
            self._start_former(service, former)
            self._verify(service)
        except (ConvergeError, _docker.DockerException, OSError) as error:
            return (
                f"It could not be rolled back either: {_docker.explain(error)}; "
                f"what it had is the container {service.container} or {service.container}{FORMER}"
            )
        return "Rolled back: it runs its former image and configuration again and is healthy."

    def _remove_new(self, service: Service, former: dict[str, Any] | None) -> None:
        if service.action in ("create", "recreate"):
            made = self.engine.container(service.container)
            if made is not None and (former is None or made["Id"] != former["Id"]):
                self.engine.remove(made["Id"])

    def _start_former(self, service: Service, former: dict[str, Any]) -> None:
        client = self.engine.client
        if service.action != "recreate":
            container.restart(service, self.engine, former["Id"])
            return
        if client.inspect_container(former["Id"])["Name"] != f"/{service.container}":
            client.rename(former["Id"], service.container)
        client.start(former["Id"])
