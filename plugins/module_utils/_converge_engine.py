# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings network, files, containers and health to the wanted state through the Docker Engine's API.

Private to the collection. A run has two halves: `look` compares everything and decides on actions, each with its
reasons, and `act` carries them out, every service in a thread of its own that waits for those it depends on.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils import _converge_network as host
from ansible_collections.skasrc.cavern.plugins.module_utils import _converge_plan as planning
from ansible_collections.skasrc.cavern.plugins.module_utils import _docker, _files
from ansible_collections.skasrc.cavern.plugins.module_utils._connections import Connections
from ansible_collections.skasrc.cavern.plugins.module_utils._converge_files import (
    FilePlan,
    apply_files,
    plan_files,
)

try:
    import docker
    from docker import errors as docker_errors
except ImportError:
    docker = None
    docker_errors = None


class ConvergeError(Exception):
    """Something cannot be brought to the wanted state; the message says what and why."""


@dataclass(frozen=True)
class HandOver:
    """A volume that goes from one user to another."""

    volume: str
    place: Path
    former: int
    owner: int


@dataclass
class Service:
    """One service on its way: what is wanted, what was found, what is to be done."""

    spec: dict[str, Any]
    options: dict[str, Any]
    files: FilePlan
    inspect: dict[str, Any] | None = None
    action: str | None = None
    reasons: list[str] = field(default_factory=list)
    differing: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    reload: bool = False
    volumes: list[str] = field(default_factory=list)
    handed_over: list[HandOver] = field(default_factory=list)
    health: str = "unknown"
    done: threading.Event = field(default_factory=threading.Event)
    error: str | None = None

    @property
    def name(self) -> str:
        """Key of the service in the catalogue."""
        return str(self.spec["name"])

    @property
    def container(self) -> str:
        """Name of its container."""
        return str(self.spec["container"])


def installed(socket: str) -> bool:
    """Whether this host has an engine, running or not."""
    return shutil.which("dockerd") is not None or Path(socket).exists()


def connect(socket: str) -> Any:
    """Client of the engine behind a Unix socket, or None if none answers."""
    try:
        client = _docker.connect(socket, timeout=300, num_pools=32)
        client.ping()
    except docker_errors.DockerException:
        return None
    return client


def _started(inspect: dict[str, Any], moment: str = "") -> float:
    text = moment or inspect["State"]["StartedAt"]
    return datetime.fromisoformat(text[:19] + "+00:00").timestamp() + float(
        "0." + (text[20:].rstrip("Z") or "0")
    )


class Converger:
    """One run over one project."""

    def __init__(
        self,
        client: Any,
        params: dict[str, Any],
        check_mode: bool,
        renewed: planning.Renewed | None = None,
    ) -> None:
        """Work through *client*, which is None where check mode found no engine."""
        self.renewed = renewed or planning.Renewed()
        self.client = client
        self.params = params
        self.check_mode = check_mode
        self.project: str = params["project"]
        self.network: dict[str, Any] = params["network"]
        self.actions: list[dict[str, Any]] = []
        self.diffs: list[dict[str, Any]] = []
        self.services: dict[str, Service] = {}
        self.surplus: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._deadline = time.monotonic() + params["timeout"]
        self._network_action: str | None = None
        self._network_old: dict[str, Any] | None = None
        self._connections: Connections | None = None

    # -- what is there -------------------------------------------------------------------------------------

    def _call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call the engine; None stands for an object that does not exist."""
        if self.client is None:
            return None
        try:
            return function(*arguments, **options)
        except docker_errors.NotFound:
            return None

    def _inspect(self, name: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._call(lambda: self.client.inspect_container(name))
        return found

    def _note(self, kind: str, name: str, action: str, reasons: list[str]) -> None:
        with self._lock:
            self.actions.append({"object": kind, "name": name, "action": action, "reasons": reasons})

    def owned(self) -> list[dict[str, Any]]:
        """All containers of the project."""
        if self.client is None:
            return []
        found: list[dict[str, Any]] = self.client.containers(
            all=True, filters={"label": f"{planning.PROJECT}={self.project}"}
        )
        return found

    # -- look ----------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Compare everything that is selected with what runs, and decide what to do."""
        specs = self.params["services"]
        planning.waves({spec["name"]: spec.get("depends_on") or [] for spec in specs})
        self._look_at_network()
        self._look_at_connections()
        with ThreadPoolExecutor(max_workers=self.params["threads"]) as pool:
            for service in pool.map(self._look_at_service, specs):
                self.services[service.name] = service
        for service in self.services.values():
            self._report(service)
        self._look_for_surplus()
        self._check_ports_and_addresses()

    def _look_for_surplus(self) -> None:
        """Find containers whose service goes by another name now, and with prune those that left the catalogue."""
        for container in self.owned():
            name, key = container["Names"][0].lstrip("/"), container["Labels"].get(planning.SERVICE)
            service = self.services.get(key)
            if service is not None and name != service.container:
                reason = f"{key} is {service.container} now"
            elif self.params["prune"] and key not in self.params["catalogue"]:
                reason = "no longer in the catalogue"
            else:
                continue
            self.surplus.append(container)
            self._note("container", name, "remove", [reason])

    def _look_at_network(self) -> None:
        network = self.network
        if not self.params["services"] and not network.get("ensure"):
            return
        bridge = network.get("bridge") or network["name"]
        known = [] if self.client is None else self.client.networks()
        found = next((item for item in known if item["Name"] == network["name"]), None)
        if found is None:
            taken = host.overlap(network["subnet"], known, network["name"], bridge)
            if taken:
                raise ConvergeError(
                    f"network {network['name']}: the subnet {network['subnet']} overlaps {taken}; "
                    "choose another with cavern_network.subnet"
                )
            self._network_action = "create"
            self._note("network", network["name"], "create", ["missing"])
            self.diffs.append(
                {
                    "before_header": network["name"],
                    "after_header": network["name"],
                    "before": "",
                    "after": f"{network}\n",
                }
            )
            return
        config = ((found.get("IPAM") or {}).get("Config") or [{}])[0]
        options = found.get("Options") or {}
        differing = []
        if config.get("Subnet") != network["subnet"]:
            differing.append(f"subnet: {config.get('Subnet')} -> {network['subnet']}")
        if network.get("gateway") and config.get("Gateway") != network["gateway"]:
            differing.append(f"gateway: {config.get('Gateway')} -> {network['gateway']}")
        if network.get("mtu") and options.get("com.docker.network.driver.mtu") != str(network["mtu"]):
            differing.append(f"mtu: {options.get('com.docker.network.driver.mtu')} -> {network['mtu']}")
        if not differing:
            return
        if (found.get("Labels") or {}).get(planning.PROJECT) != self.project:
            raise ConvergeError(
                f"network {network['name']} exists, belongs to somebody else and differs ({'; '.join(differing)}); "
                "remove it or choose another name with cavern_network.name"
            )
        self._network_action = "recreate"
        self._network_old = self.client.inspect_network(found["Id"])
        foreign = self._foreign_members(self._network_old)
        if foreign:
            raise ConvergeError(
                f"network {network['name']} must change ({'; '.join(differing)}), but {', '.join(foreign)} "
                "from elsewhere use it; disconnect them first"
            )
        self._note("network", network["name"], "recreate", differing)

    def _look_at_connections(self) -> None:
        network = self.network
        if network.get("connections") is None or not (self.params["services"] or network.get("ensure")):
            return
        self._connections = Connections(self.project, network, network["connections"])
        if self.client is not None and self._network_action is None:
            self._connections.check_place()
        self._take_over(self._connections)

    def _take_over(self, connections: Connections) -> None:
        connections.look()
        self.actions += connections.actions
        self.diffs += connections.diffs

    def _foreign_members(self, inspect: dict[str, Any] | None) -> list[str]:
        ours = {container["Id"] for container in self.owned()}
        members = (inspect or {}).get("Containers") or {}
        return sorted(member["Name"] for key, member in members.items() if key not in ours)

    def _look_at_service(self, spec: dict[str, Any]) -> Service:
        config_dir = self.params["config_dir"]
        try:
            options = planning.wanted(spec, self.project, self.network["name"], config_dir)
            files = plan_files(spec, config_dir, self.check_mode, self.renewed.files)
        except planning.PlanError as exc:
            raise ConvergeError(f"{spec['name']}: {exc}") from exc
        service = Service(spec, options, files, inspect=self._inspect(spec["container"]))
        self._look_at_container(service)
        self._look_at_volumes(service)
        return service

    def _look_at_container(self, service: Service) -> None:
        spec, inspect = service.spec, service.inspect
        image = self._call(lambda: self.client.inspect_image(spec["image"]))
        if image is None and not self.check_mode:
            raise ConvergeError(
                f"{service.name}: the image {spec['image']} is not on this host; the role images makes or fetches it "
                "(run without --tags, or with --tags images)"
            )
        if inspect is None:
            service.action, service.reasons = "create", ["missing"]
            return
        labels = inspect["Config"].get("Labels") or {}
        if labels.get(planning.PROJECT) != self.project:
            raise ConvergeError(
                f"{service.name}: a container named {service.container} exists and is not of this deployment "
                f"({self.project}); remove or rename it, or set cavern_container_prefix"
            )
        same = image is not None and image["Id"] == inspect["Image"]
        found = planning.active(inspect, service.options, image if same else None)
        service.differing = planning.differences(service.options, found)
        service.reasons = planning.reasons(service.differing)
        if image is not None and image["Id"] != inspect["Image"]:
            service.reasons.insert(0, f"image: {inspect['Image'][7:19]} -> {image['Id'][7:19]}")
        elif spec["image"] in self.renewed.images:
            service.reasons.insert(0, f"image: {inspect['Image'][7:19]} -> a new one")
        effects = service.files.effects
        if self._network_action == "recreate":
            service.reasons.insert(0, "network is made anew")
        if service.name in self.params["recreate"]:
            service.reasons.insert(0, "asked for")
        if "recreate" in effects:
            service.reasons.append(f"files: {', '.join(effects['recreate'])}")
        elif service.files.newest.get("recreate", 0.0) > _started(inspect, inspect["Created"]) + 1:
            service.reasons.append("files are newer than the container")
        if service.reasons:
            service.action = "recreate"
            return
        state = inspect["State"]
        if not state.get("Running"):
            service.action, service.reasons = "start", [state.get("Status") or "stopped"]
        elif state.get("Paused") and not {"restart", "reload"} & set(effects):
            service.action, service.reasons = "unpause", ["paused"]
        elif "restart" in effects:
            service.action, service.reasons = "restart", [f"files: {', '.join(effects['restart'])}"]
        elif service.files.newest.get("restart", 0.0) > _started(inspect) + 1:
            # A run that was broken off between writing and restarting leaves this to the next.
            service.action, service.reasons = "restart", ["files are newer than the process"]
        elif "reload" in effects:
            service.action, service.reasons = "reload", [f"files: {', '.join(effects['reload'])}"]

    def _look_at_volumes(self, service: Service) -> None:
        for mount in service.spec.get("mounts") or []:
            if mount["type"] == "volume":
                found = self._call(self._volume, mount["source"])
                if found is None:
                    service.volumes.append(mount["source"])
                else:
                    self._look_at_owner(service, mount, Path(found["Mountpoint"]))
            if mount["type"] == "bind" and not self.check_mode and not Path(mount["source"]).exists():
                raise ConvergeError(
                    f"{service.name}: {mount['source']} does not exist; name it in host_directories, or make it"
                )

    def _look_at_owner(self, service: Service, mount: dict[str, Any], place: Path) -> None:
        try:
            former = place.stat().st_uid
        except OSError:
            # The engine keeps its volumes elsewhere, or this is not root: the service itself will tell.
            return
        if former == mount["owner"] or former not in mount["former_owners"]:
            return
        service.handed_over.append(HandOver(mount["source"], place, former, mount["owner"]))
        if service.action not in ("create", "recreate"):
            service.action, service.reasons = "recreate", [f"the volume {mount['source']} changes hands"]

    def _volume(self, name: str) -> Any:
        return self.client.inspect_volume(name)

    def _report(self, service: Service) -> None:
        for change in service.files.changes:
            self._note("file", str(change.path), change.action, change.reasons)
            hidden = "(secret)\n"
            before = change.before if not change.secret else (hidden if change.action != "create" else "")
            after = (
                change.after
                if not change.secret
                else ("(another secret)\n" if change.action != "remove" else "")
            )
            if change.reasons not in (["content"], ["missing"], ["no longer wanted"]):
                before, after = before + "\n", after + "\n" + "\n".join(change.reasons) + "\n"
            self.diffs.append(
                {
                    "before_header": str(change.path),
                    "after_header": str(change.path),
                    "before": before,
                    "after": after,
                }
            )
        for name in service.volumes:
            self._note("volume", name, "create", ["missing"])
        for change in service.handed_over:
            reason = f"owner: {change.former} -> {change.owner}"
            self._note("volume", change.volume, "update", [reason])
            header = f"volume {change.volume}"
            self.diffs.append(
                {
                    "before_header": header,
                    "after_header": header,
                    "before": f"owner: {change.former}\n",
                    "after": f"owner: {change.owner}\n",
                }
            )
        if service.action:
            self._note("container", service.container, service.action, service.reasons)
            lines = [reason.partition(" -> ") for reason in service.reasons]
            self.diffs.append(
                {
                    "before_header": f"container {service.container}",
                    "after_header": f"container {service.container} ({service.action})",
                    "before": "".join(f"{before}\n" for before, arrow, _after in lines if arrow),
                    "after": "".join(
                        f"{b.partition(':')[0]}: {after}\n" if arrow else f"{b}\n"
                        for b, arrow, after in lines
                    ),
                }
            )

    def _check_ports_and_addresses(self) -> None:
        """Refuse a new container whose address or port somebody else has: the engine's own errors name neither."""
        if self.client is None or self._network_action:
            members: dict[str, Any] = {}
        else:
            members = (self._call(self.client.inspect_network, self.network["name"]) or {}).get(
                "Containers"
            ) or {}
        going = {container["Names"][0].lstrip("/") for container in self.surplus}
        ours = going | {service.container for service in self.services.values()}
        for service in self.services.values():
            if service.action not in ("create", "recreate", "start"):
                continue
            for member in members.values():
                address = member["IPv4Address"].partition("/")[0]
                if address == service.spec["address"] and member["Name"] not in ours:
                    raise ConvergeError(
                        f"{service.name}: the address {address} is taken by the container {member['Name']}"
                    )
            if self.check_mode or (service.inspect or {}).get("State", {}).get("Running"):
                continue
            for port in service.spec.get("ports") or []:
                address = port.get("host_address") or "0.0.0.0"
                if not host.port_in_use(address, port["host_port"]):
                    continue
                listener = self._listener(port)
                if listener not in ours:
                    raise ConvergeError(
                        f"{service.name}: port {port['host_port']} of {address} is taken by "
                        f"{f'the container {listener}' if listener else 'a process of the host'}; "
                        "stop that, or change cavern_https_port, cavern_http_port or cavern_publish_address"
                    )

    def _listener(self, port: dict[str, Any]) -> str | None:
        """Name of the container that has published that port."""
        for container in self.client.containers():
            for binding in container.get("Ports") or []:
                if binding.get("PublicPort") == port["host_port"]:
                    return str(container["Names"][0]).lstrip("/")
        return None

    # -- act -----------------------------------------------------------------------------------------------

    def act(self) -> None:
        """Carry out what `look` decided, and wait until everything is healthy."""
        for container in self.surplus:
            self._remove(container["Id"])
        if self._network_action:
            self._make_network()
        if self._connections:
            self._connections.act()
        with ThreadPoolExecutor(max_workers=max(1, len(self.services))) as pool:
            for service in self.services.values():
                pool.submit(self._converge, service)
        failed = [service for service in self.services.values() if service.error]
        if failed:
            raise ConvergeError("\n".join(f"{service.name}: {service.error}" for service in failed))

    def _make_network(self) -> None:
        network = self.network
        if self._network_old is not None:
            for container in self.owned():
                self._remove(container["Id"])
            self.client.remove_network(self._network_old["Id"])
        pool = docker.types.IPAMPool(subnet=network["subnet"], gateway=network.get("gateway"))
        options = {"com.docker.network.bridge.name": network.get("bridge") or network["name"]}
        if network.get("mtu"):
            options["com.docker.network.driver.mtu"] = str(network["mtu"])
        self.client.create_network(
            network["name"],
            driver="bridge",
            ipam=docker.types.IPAMConfig(pool_configs=[pool]),
            options=options,
            labels={planning.PROJECT: self.project},
            check_duplicate=True,
        )

    def _converge(self, service: Service) -> None:
        try:
            self._prepare(service)
            for name in service.spec.get("depends_on") or []:
                other = self.services.get(name)
                if other is None:
                    continue
                other.done.wait()
                if other.error:
                    raise ConvergeError(f"not started, since {name} failed")
            self._apply(service)
            self._await_health(service)
        except ConvergeError as exc:
            service.error = str(exc)
        except (docker_errors.DockerException, OSError) as exc:
            service.error = f"{service.action or 'look'}: {getattr(exc, 'explanation', None) or exc}"
        finally:
            service.done.set()

    def _prepare(self, service: Service) -> None:
        apply_files(service.files, self.params["config_dir"])
        for name in service.volumes:
            self.client.create_volume(
                name, labels={planning.PROJECT: self.project, planning.SERVICE: service.name}
            )

    def _apply(self, service: Service) -> None:
        action, name = service.action, service.container
        if action == "recreate" and service.inspect is not None:
            self._remove(service.inspect["Id"])
        if action in ("create", "recreate"):
            for change in service.handed_over:
                _files.hand_over(change.place, change.former, change.owner)
            body = planning.creation(service.spec, service.options, self.params["config_dir"])
            self.client.create_container_from_config(body, name)
            self.client.start(name)
        elif action == "start":
            self.client.start(name)
        elif action == "unpause":
            self.client.unpause(name)
        elif action == "restart":
            self._wake(service)
            self.client.restart(name, timeout=service.options.get("stop_timeout", 10))
        elif action == "reload":
            self._reload(service)

    def _wake(self, service: Service) -> None:
        """Let a paused container go on, so that it can take a signal."""
        if service.inspect is not None and service.inspect["State"].get("Paused"):
            self.client.unpause(service.container)

    def _reload(self, service: Service) -> None:
        self._wake(service)
        how = service.spec.get("reload") or {}
        if how.get("signal"):
            self.client.kill(service.container, how["signal"])
        elif how.get("command"):
            code, output = self._exec(service.container, how["command"])
            if code:
                raise ConvergeError(f"reload ended with {code}: {output}")
        else:
            self.client.restart(service.container)

    def _remove(self, container: str) -> None:
        self._call(self.client.stop, container)
        self._call(self.client.remove_container, container, force=True)

    def _exec(self, container: str, command: list[str]) -> tuple[int, str]:
        created = self.client.exec_create(container, command)
        output = self.client.exec_start(created["Id"])
        code = self.client.exec_inspect(created["Id"])["ExitCode"]
        return (1 if code is None else code), output.decode(errors="replace").strip()

    def _await_health(self, service: Service, fresh: bool = False) -> None:
        """Run the health test in the container until it passes: Docker's own first one comes an interval later.

        What Docker knows is enough where nothing was done, unless the answer must be *fresh*.
        """
        test = (service.spec.get("health") or {}).get("test")
        pause, last = 0.1, ""
        restarts: int | None = None
        while True:
            inspect = self._inspect(service.container)
            if inspect is None:
                raise ConvergeError(f"the container {service.container} has vanished")
            service.inspect = inspect
            state = inspect["State"]
            if restarts is None:
                restarts = inspect["RestartCount"]
            if state.get("Running") and not state.get("Restarting"):
                known = (state.get("Health") or {}).get("Status")
                if not test or (known == "healthy" and not (service.action or fresh)):
                    service.health = known or "running"
                    return
                try:
                    code, last = self._exec(service.container, _command(test))
                except docker_errors.APIError as exc:
                    code, last = 1, str(exc.explanation or exc)
                if code == 0:
                    service.health = "healthy"
                    return
            if inspect["RestartCount"] >= restarts + 3 or (
                state.get("Status") in ("exited", "dead") and service.options["restart_policy"] == "no"
            ):
                raise ConvergeError(self._autopsy(service, "does not stay up", last))
            if time.monotonic() > self._deadline:
                raise ConvergeError(
                    self._autopsy(service, f"is not healthy after {self.params['timeout']} s", last)
                )
            time.sleep(pause)
            pause = min(1.0, pause * 1.5)

    def _autopsy(self, service: Service, what: str, last: str) -> str:
        logs = self._call(self.client.logs, service.container, tail=20) or b""
        parts = [f"the container {service.container} {what}"]
        if last:
            parts.append(f"last health check: {last}")
        parts.append(f"last log lines:\n{logs.decode(errors='replace').strip()}")
        return "; ".join(parts)

    # -- take away -----------------------------------------------------------------------------------------

    def stop(self, remove: bool) -> None:
        """Stop, and with *remove* take away, the containers of the project, dependants before what they need."""
        running = self.owned()
        by_service = {
            container["Labels"].get(planning.SERVICE, container["Id"]): container for container in running
        }
        depends = {
            name: [other for other in (c["Labels"].get(planning.DEPENDS) or "").split(",") if other]
            for name, c in by_service.items()
        }
        selected = {spec["name"] for spec in self.params["services"]} or set(by_service)
        for wave in reversed(planning.waves(depends)):
            todo = [by_service[name] for name in wave if name in selected]
            todo = [container for container in todo if remove or container["State"] != "exited"]
            for container in todo:
                name = container["Names"][0].lstrip("/")
                self._note(
                    "container", name, "remove" if remove else "stop", [f"state is {self.params['state']}"]
                )
            if self.check_mode or not todo:
                continue
            with ThreadPoolExecutor(max_workers=len(todo)) as pool:
                act = self._remove if remove else self.client.stop
                list(pool.map(act, [container["Id"] for container in todo]))
        if remove and self.params["remove_network"]:
            self._remove_network()
            self._remove_connections()
        if remove and self.params["remove_volumes"]:
            self._remove_volumes()

    def _remove_network(self) -> None:
        found = self._call(lambda: self.client.inspect_network(self.network["name"]))
        if found is None or (found.get("Labels") or {}).get(planning.PROJECT) != self.project:
            return
        foreign = self._foreign_members(found)
        if foreign:
            raise ConvergeError(
                f"network {self.network['name']}: {', '.join(foreign)} from elsewhere still use it"
            )
        self._note("network", self.network["name"], "remove", ["asked for"])
        if self.check_mode:
            return
        try:
            self.client.remove_network(found["Id"])
        except docker_errors.APIError as exc:
            # The engine can lose count of endpoints when containers die while they are attached.
            raise ConvergeError(
                f"network {self.network['name']} cannot be removed: {exc.explanation or exc}; "
                "if nothing uses it, restart Docker Engine and run this again"
            ) from exc

    def _remove_connections(self) -> None:
        connections = Connections(self.project, self.network, None)
        self._take_over(connections)
        if not self.check_mode:
            connections.act()

    def _remove_volumes(self) -> None:
        if self.client is None:
            return
        filters = {"label": f"{planning.PROJECT}={self.project}"}
        for volume in self.client.volumes(filters=filters)["Volumes"] or []:
            self._note("volume", volume["Name"], "remove", ["asked for"])
            if not self.check_mode:
                self.client.remove_volume(volume["Name"], force=True)

    def result(self) -> dict[str, Any]:
        """What the module returns."""
        services = {}
        for name, service in self.services.items():
            state = (service.inspect or {}).get("State") or {}
            services[name] = {
                "container": service.container,
                "address": service.spec["address"],
                "image": service.spec["image"],
                "state": state.get("Status") or "absent",
                "health": service.health,
            }
        return {
            "changed": bool(self.actions),
            "actions": self.actions,
            "services": services,
            "diff": self.diffs,
        }


def _command(test: list[str]) -> list[str]:
    if test[0] == "CMD":
        return test[1:]
    if test[0] == "CMD-SHELL":
        return ["/bin/sh", "-c", *test[1:]]
    raise ConvergeError(f"health.test must begin with CMD or CMD-SHELL, not {test[0]!r}")
