# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring network, files, containers and health of a project to the wanted state. Private to the collection.

A run has two halves: `plan` compares everything and decides on actions, each with its reasons, and `apply` carries
them out, every service in a thread of its own that waits for those it depends on.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils import _docker, _engine, _progress
from ansible_collections.skasrc.cavern.plugins.module_utils._converge import (
    container,
    labels,
    options,
    ports,
    volumes,
)
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.engine import Engine, container_name
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.errors import ConvergeError, PlanError
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.files import apply_files, plan_files
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.health import await_health
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.network import Network
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.report import Report
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.service import Renewed, Service, waves
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.target import Target


class Converger:
    """One run over one project."""

    def __init__(
        self, client: Any, params: dict[str, Any], check_mode: bool, renewed: Renewed | None = None
    ) -> None:
        """Work through *client*, which is None where check mode found no Engine; *params* are the module's."""
        self.params = params
        self.check_mode = check_mode
        self.renewed = renewed or Renewed()
        self.engine = Engine(client, params["project"])
        self.report = Report()
        self.network = Network(self.engine, self.report, params["network"], check_mode)
        self.services: dict[str, Service] = {}
        self.surplus: list[dict[str, Any]] = []
        self.places = _engine.places(params["socket"])
        self._deadline = time.monotonic() + params["timeout"]

    @property
    def actions(self) -> list[dict[str, Any]]:
        """What was done so far, or in check mode would be."""
        return self.report.actions

    # -- plan ----------------------------------------------------------------------------------------------

    def plan(self) -> None:
        """Compare what is selected with what runs, and decide what to do. Raises ConvergeError, PlanError."""
        specs = self.params["services"]
        waves({spec["name"]: spec.get("depends_on") or [] for spec in specs})
        if specs or self.params["network"].get("ensure"):
            self.network.plan()
        with ThreadPoolExecutor(max_workers=self.params["threads"]) as pool:
            for service in pool.map(self._plan_service, specs):
                self.services[service.name] = service
        for service in self.services.values():
            self.report.service(service)
        self._plan_surplus()
        ours = {container_name(found) for found in self.surplus}
        ours |= {service.container for service in self.services.values()}
        ports.check(self.services.values(), self.network.members(), ours, self.engine, self.check_mode)

    def _plan_service(self, spec: dict[str, Any]) -> Service:
        config_dir = self.params["config_dir"]
        target = Target(spec, self.params["project"], self.network.name, config_dir, self.places)
        try:
            wanted = options.wanted(target)
            files = plan_files(spec, config_dir, self.check_mode, self.renewed.files)
        except PlanError as error:
            raise ConvergeError(f"{spec['name']}: {error}") from error
        service = Service(target, wanted, files, inspect=self.engine.container(spec["container"]))
        self._plan_container(service)
        volumes.plan(service, self.engine, self.check_mode)
        return service

    def _plan_container(self, service: Service) -> None:
        image = self.engine.image(service.spec["image"])
        if image is None and not self.check_mode:
            raise ConvergeError(
                f"{service.name}: the image {service.spec['image']} is not on this host; the role images makes or "
                "fetches it (run without --tags, or with --tags images)"
            )
        found = service.inspect
        if found is not None and not self.engine.owns(found["Config"].get("Labels")):
            raise ConvergeError(
                f"{service.name}: a container named {service.container} exists and is not of this deployment "
                f"({self.engine.project}); remove or rename it, or set deployment_container_prefix"
            )
        because = ["asked for"] if service.name in self.params["recreate"] else []
        because += ["network is made anew"] if self.network.action == "recreate" else []
        container.plan(service, image, self.renewed.images, because)

    def _plan_surplus(self) -> None:
        """Find containers of services that are called otherwise now, or run on another host, and with `prune` of those
        not in the catalogue."""
        for found in self.engine.containers():
            name, key = container_name(found), found["Labels"].get(labels.SERVICE)
            service = self.services.get(key)
            if service is not None and name != service.container:
                reason = f"{key} is {service.container} now"
            elif key in self.params["elsewhere"]:
                reason = f"{key} is on another host now"
            elif self.params["prune"] and key not in self.params["catalogue"]:
                reason = "no longer in the catalogue"
            else:
                continue
            self.surplus.append(found)
            self.report.note("container", name, "remove", [reason])

    # -- apply ---------------------------------------------------------------------------------------------

    def apply(self) -> None:
        """Carry out what `plan` decided, and wait until everything is healthy. Raises ConvergeError."""
        self._apply_common()
        with ThreadPoolExecutor(max_workers=max(1, len(self.services))) as pool:
            for service in self.services.values():
                pool.submit(self._converge, service)
        failed = [service for service in self.services.values() if service.error]
        if failed:
            raise ConvergeError("\n".join(f"{service.name}: {service.error}" for service in failed))

    def _apply_common(self) -> None:
        """Do what comes before the services."""
        for found in self.surplus:
            self.engine.remove(found["Id"])
        self.network.apply()

    def _converge(self, service: Service) -> None:
        try:
            self._prepare(service)
            self._await_dependencies(service)
            with self._told(service):
                container.apply(service, self.engine)
                self._await_health(service)
        except ConvergeError as error:
            service.error = str(error)
        except (_docker.DockerException, OSError) as error:
            service.error = f"{service.action or 'look'}: {_docker.explain(error)}"
        finally:
            service.done.set()

    @staticmethod
    def _told(service: Service) -> AbstractContextManager[None]:
        """Tell whoever follows the run when something is done to the service, and when it is healthy."""
        if not service.action:
            return nullcontext()
        return _progress.step("container", service.container, service.action, "healthy")

    def _prepare(self, service: Service) -> None:
        """Write the files of a service, and create its volumes."""
        apply_files(service.files, self.params["config_dir"])
        volumes.create(service, self.engine)

    def _await_dependencies(self, service: Service) -> None:
        for name in service.depends_on:
            other = self.services.get(name)
            if other is None:
                continue
            if service.action and not other.done.is_set():
                _progress.tell("container", service.container, f"waits for {name}")
            other.done.wait()
            if other.error:
                raise ConvergeError(f"not started, since {name} failed")

    def _await_health(self, service: Service, fresh: bool = False) -> None:
        await_health(service, self.engine, self._deadline, self.params["timeout"], fresh)

    # -- stop ----------------------------------------------------------------------------------------------

    def stop(self, remove: bool) -> None:
        """Stop, and with *remove* also remove, the containers of the project, dependants before what they need."""
        by_service = {
            found["Labels"].get(labels.SERVICE, found["Id"]): found for found in self.engine.containers()
        }
        selected = {spec["name"] for spec in self.params["services"]} or set(by_service)
        depends = {name: _dependencies(found) for name, found in by_service.items()}
        for wave in reversed(waves(depends)):
            found = [by_service[name] for name in wave if name in selected]
            self._stop_wave([one for one in found if remove or one["State"] != "exited"], remove)
        if remove and self.params["remove_network"]:
            self.network.remove()
        if remove and self.params["remove_volumes"]:
            volumes.remove(self.engine, self.report, self.check_mode)

    def _stop_wave(self, containers: list[dict[str, Any]], remove: bool) -> None:
        """Stop or remove several containers side by side."""
        action, reason = ("remove" if remove else "stop"), f"state is {self.params['state']}"
        for found in containers:
            self.report.note("container", container_name(found), action, [reason])
        if self.check_mode or not containers:
            return
        with ThreadPoolExecutor(max_workers=len(containers)) as pool:
            stop = self.engine.remove if remove else self.engine.client.stop
            list(pool.map(stop, [found["Id"] for found in containers]))

    def result(self) -> dict[str, Any]:
        """Return what the module returns."""
        services = {
            name: {
                "container": service.container,
                "address": service.spec["address"],
                "image": service.spec["image"],
                "state": service.state.get("Status") or "absent",
                "health": service.health,
            }
            for name, service in self.services.items()
        }
        return {
            "changed": bool(self.report.actions),
            "actions": self.report.actions,
            "services": services,
            "diff": self.report.diffs,
        }


def _dependencies(found: dict[str, Any]) -> list[str]:
    """Return the services that a listed container's own depends on."""
    return [name for name in (found["Labels"].get(labels.DEPENDS) or "").split(",") if name]
