#!/usr/bin/python
# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: converge
short_description: Bring a host with network, configuration and containers to the wanted state
version_added: 0.1.0
author:
  - Cavern deployment team (@ska-telescope)
description:
  - Compares network, configuration files, volumes, containers and health of several services with what is wanted and
    changes what differs, all in one task.
  - Where O(host), O(certificates), O(hosts_entries) or O(images) are given, what M(skasrc.cavern.host),
    M(skasrc.cavern.certificates), M(skasrc.cavern.hosts_entries) and M(skasrc.cavern.images) do comes first, in this
    order. One run for all is several times as fast as one for each, whose start costs more than its work.
  - Services that do not depend on each other are brought up side by side; a service waits until those in its
    O(services[].depends_on) are healthy.
  - Compares with what really runs, so that changes made by hand are found and undone.
  - Everything it makes is labelled with the O(project), and it never touches a container of another one.
  - Where O(owner) is given, a project that belongs to another directory is refused before anything changes.
extends_documentation_fragment:
  - skasrc.cavern.deployment_owner.nested
  - skasrc.cavern.host.nested
  - skasrc.cavern.certificates.nested
  - skasrc.cavern.hosts_entries.nested
  - skasrc.cavern.images.nested
requirements:
  - docker (Python package) 7.0 or later
  - Docker Engine 20.10 or later
attributes:
  action:
    support: full
    description: Recipes and sources of O(images) are read on the controller.
  check_mode:
    support: full
    description: Reports what a run would do, even on a machine that has no engine or images yet.
  diff_mode:
    support: full
    description: Shows the lines of files and the options of containers that change, never a secret.
options:
  socket:
    description: Socket of Docker Engine.
    type: path
    default: /var/run/docker.sock
  project:
    description: Name of the deployment.
    type: str
    required: true
  network:
    description: The network that all services share.
    type: dict
    required: true
    suboptions:
      name:
        description: Name of the network.
        type: str
        required: true
      subnet:
        description: IPv4 subnet.
        type: str
        required: true
      gateway:
        description: Address of the host in the network.
        type: str
      bridge:
        description: Name of the bridge interface; that of the network by default.
        type: str
      mtu:
        description: Largest packet in bytes.
        type: int
      ensure:
        description: Make the network even where no service is selected.
        type: bool
        default: false
      connections:
        description:
          - Which connections the containers of the network may open, for the host's packet filter. Names may always be
            asked for. Without this, the filter is left as it is.
        type: dict
        suboptions:
          restrict:
            description: Whether there are such rules. Those of an earlier run are taken away with V(false).
            type: bool
            default: true
          members:
            description:
              - Addresses of all services. Other containers of the network may open connections to all but these.
            type: list
            elements: str
            default: []
          rules:
            description: What may be opened. All other connections of the network's containers are dropped.
            type: list
            elements: dict
            default: []
            suboptions:
              source: {description: Address of a service; without it all other containers., type: str}
              destination: {description: Address; without it all of other machines., type: str}
              ports: {description: TCP ports; all if there are none., type: list, elements: int, default: []}
              comment: {description: Who asks whom. It is shown where the rules are listed., type: str, default: ''}
  config_dir:
    description: Directory below which each service has its configuration files.
    type: path
    required: true
  catalogue:
    description: Keys of every service of the project; containers of others are surplus.
    type: list
    elements: str
    default: []
  state:
    description:
      - V(present) means running and healthy.
      - V(stopped) and V(absent) apply to O(services), or to all of the project where none is given.
    type: str
    choices: [present, stopped, absent]
    default: present
  strategy:
    description:
      - V(together) brings up side by side what does not depend on each other.
      - V(one_by_one) changes one service at a time, in the order of their dependencies. The next one waits until it and
        those that need it are healthy. If they do not become so, it gets back the container, image and configuration
        that it had, and the run ends.
    type: str
    choices: [together, one_by_one]
    default: together
  prune:
    description: Also remove containers of the project that are not in the O(catalogue).
    type: bool
    default: false
  recreate:
    description: Services to make anew although nothing differs.
    type: list
    elements: str
    default: []
  remove_network:
    description: With O(state=absent), remove the network too.
    type: bool
    default: false
  remove_volumes:
    description: With O(state=absent), remove the volumes of the project too.
    type: bool
    default: false
  timeout:
    description: Seconds in which everything, or with O(strategy=one_by_one) each service, must be healthy.
    type: int
    default: 300
  threads:
    description: How many services are compared at once.
    type: int
    default: 8
  services:
    description: The services to bring to the wanted state.
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: Key of the service., type: str, required: true}
      container: {description: Name of the container., type: str, required: true}
      image: {description: Image that is on the host., type: str, required: true}
      address: {description: IPv4 address in the network., type: str, required: true}
      aliases: {description: More names in the network., type: list, elements: str, default: []}
      hostname: {description: Host name inside., type: str}
      command: {description: Command and arguments., type: list, elements: str, default: []}
      entrypoint: {description: Entry point., type: list, elements: str, default: []}
      user: {description: User and group as numbers., type: str}
      working_dir: {description: Working directory., type: str}
      environment: {description: Environment. Shown in diffs; secrets belong into files., type: dict, default: {}}
      ports:
        description: Published ports.
        type: list
        elements: dict
        default: []
        suboptions:
          host_address: {description: Address of the host., type: str, default: 127.0.0.1}
          host_port: {description: Port of the host., type: int, required: true}
          container_port: {description: Port of the container., type: int, required: true}
          protocol: {description: Protocol., type: str, choices: [tcp, udp], default: tcp}
      mounts:
        description: Mounts.
        type: list
        elements: dict
        default: []
        suboptions:
          type: {description: Kind of mount., type: str, choices: [bind, volume, tmpfs], required: true}
          source: {description: Path on the host or name of a volume., type: str}
          target: {description: Path in the container., type: str, required: true}
          read_only: {description: Mount it read-only., type: bool, default: false}
          owner:
            description: uid that the service's files on a volume belong to.
            type: int
          former_owners:
            description:
              - uids that they may have belonged to before. If the volume belongs to one of them, it goes to
                O(services[].mounts[].owner) with all that the former one has there, before the container is made.
            type: list
            elements: int
            default: []
          tmpfs_size: {description: Size of a tmpfs such as 64m., type: str}
          tmpfs_mode: {description: Permissions of a tmpfs., type: str}
      files:
        description: Configuration files; others in the service's directory are removed.
        type: list
        elements: dict
        default: []
        suboptions:
          path: {description: Path below the service's directory., type: str, required: true}
          content: {description: Content that may be shown., type: str}
          secret_content: {description: Content that is never shown., type: str}
          source: {description: File on the host to copy instead., type: path}
          mode: {description: Permissions in octal., type: str, default: '0444'}
          owner: {description: uid., type: int, default: 0}
          group: {description: gid., type: int, default: 0}
          secret: {description: Never show the content of the source., type: bool, default: false}
          on_change:
            description: What a change asks of the container.
            type: str
            choices: [none, reload, restart, recreate]
            default: restart
      config_target: {description: Where the configuration directory is mounted., type: str, default: /config}
      extra_hosts: {description: Entries of the container's hosts file., type: dict, default: {}}
      dns: {description: Name servers., type: list, elements: str, default: []}
      read_only: {description: Read-only root file system., type: bool, default: false}
      cap_add: {description: Capabilities to add., type: list, elements: str, default: []}
      cap_drop: {description: Capabilities to drop., type: list, elements: str, default: []}
      security_opt: {description: Security options., type: list, elements: str, default: []}
      init: {description: Run an init process., type: bool, default: false}
      stop_signal: {description: Signal that stops it., type: str}
      stop_timeout: {description: Seconds before it is killed., type: int}
      memory: {description: Memory limit such as 256m., type: str}
      memory_swap: {description: Limit of memory and swap together; the memory limit by default., type: str}
      cpu_shares: {description: Its part of the processors where they do not suffice; others have 1024., type: int}
      pids_limit: {description: Most processes., type: int}
      ulimits: {description: Limits by name., type: dict, default: {}}
      shm_size: {description: Size of /dev/shm., type: str}
      restart_policy:
        description: When Docker restarts it.
        type: str
        choices: ['no', always, unless-stopped, on-failure]
        default: unless-stopped
      health:
        description: How its health is tested.
        type: dict
        suboptions:
          test: {description: Test as Docker takes it; begins with CMD or CMD-SHELL., type: list, elements: str}
          interval: {description: Seconds between Docker's tests., type: int, default: 10}
          timeout: {description: Seconds that one may take., type: int, default: 5}
          retries: {description: Failures before it counts as unhealthy., type: int, default: 3}
          start_period: {description: Seconds in which failures do not count., type: int, default: 60}
      reload:
        description: How it reads changed files again without a restart.
        type: dict
        suboptions:
          signal: {description: Signal to send., type: str}
          command: {description: Command to run inside., type: list, elements: str}
      depends_on: {description: Services that must be healthy first., type: list, elements: str, default: []}
      labels: {description: More labels., type: dict, default: {}}
      log:
        description: Limits of the log.
        type: dict
        suboptions:
          max_size: {description: Size of one file., type: str, default: 10m}
          max_file: {description: Number of files., type: int, default: 3}
"""

EXAMPLES = r"""
- name: Run a web server that is reached at a static address
  skasrc.cavern.converge:
    project: example
    network: {name: example, subnet: 172.30.0.0/24}
    config_dir: /srv/example/config
    services:
      - name: web
        container: example-web
        image: cavern/nginx:local
        address: 172.30.0.2
        command: [nginx, -c, /config/nginx.conf, -g, daemon off;]
        files:
          - {path: nginx.conf, content: "{{ lookup('ansible.builtin.template', 'nginx.conf.j2') }}"}
        health: {test: [CMD, curl, --fail, http://127.0.0.1:8080/]}

- name: Take all containers of the deployment away
  skasrc.cavern.converge:
    project: example
    network: {name: example, subnet: 172.30.0.0/24}
    config_dir: /srv/example/config
    state: absent
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be, and why.
  returned: always
  type: list
  elements: dict
  contains:
    object: {description: Kind of thing., type: str, sample: container}
    name: {description: Its name or path., type: str, sample: rse-web}
    action: {description: What was done., type: str, sample: restart}
    reasons: {description: Why., type: list, elements: str, sample: ["files: nginx.conf"]}
services:
  description: State of each selected service after the run.
  returned: always
  type: dict
  sample:
    haproxy: {container: haproxy, address: 172.26.0.2, image: "cavern/haproxy:local", state: running, health: healthy}
"""

from dataclasses import replace
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.skasrc.cavern.plugins.module_utils import (
    _certificates,
    _engine,
    _host,
    _hosts_file,
    _image_store,
    _images,
    _owner,
)
from ansible_collections.skasrc.cavern.plugins.module_utils import _converge_engine as engine
from ansible_collections.skasrc.cavern.plugins.module_utils._converge_plan import PlanError, Renewed
from ansible_collections.skasrc.cavern.plugins.module_utils._converge_upgrade import Upgrader
from ansible_collections.skasrc.cavern.plugins.module_utils._phase import PhaseError, Result

SERVICE: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "container": {"type": "str", "required": True},
    "image": {"type": "str", "required": True},
    "address": {"type": "str", "required": True},
    "aliases": {"type": "list", "elements": "str", "default": []},
    "hostname": {"type": "str"},
    "command": {"type": "list", "elements": "str", "default": []},
    "entrypoint": {"type": "list", "elements": "str", "default": []},
    "user": {"type": "str"},
    "working_dir": {"type": "str"},
    "environment": {"type": "dict", "default": {}},
    "ports": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "host_address": {"type": "str", "default": "127.0.0.1"},
            "host_port": {"type": "int", "required": True},
            "container_port": {"type": "int", "required": True},
            "protocol": {"type": "str", "choices": ["tcp", "udp"], "default": "tcp"},
        },
    },
    "mounts": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "type": {"type": "str", "choices": ["bind", "volume", "tmpfs"], "required": True},
            "source": {"type": "str"},
            "target": {"type": "str", "required": True},
            "read_only": {"type": "bool", "default": False},
            "owner": {"type": "int"},
            "former_owners": {"type": "list", "elements": "int", "default": []},
            "tmpfs_size": {"type": "str"},
            "tmpfs_mode": {"type": "str"},
        },
    },
    "files": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "path": {"type": "str", "required": True},
            "content": {"type": "str"},
            "secret_content": {"type": "str", "no_log": True},
            "source": {"type": "path"},
            "mode": {"type": "str", "default": "0444"},
            "owner": {"type": "int", "default": 0},
            "group": {"type": "int", "default": 0},
            "secret": {"type": "bool", "default": False, "no_log": False},
            "on_change": {
                "type": "str",
                "choices": ["none", "reload", "restart", "recreate"],
                "default": "restart",
            },
        },
    },
    "config_target": {"type": "str", "default": "/config"},
    "extra_hosts": {"type": "dict", "default": {}},
    "dns": {"type": "list", "elements": "str", "default": []},
    "read_only": {"type": "bool", "default": False},
    "cap_add": {"type": "list", "elements": "str", "default": []},
    "cap_drop": {"type": "list", "elements": "str", "default": []},
    "security_opt": {"type": "list", "elements": "str", "default": []},
    "init": {"type": "bool", "default": False},
    "stop_signal": {"type": "str"},
    "stop_timeout": {"type": "int"},
    "memory": {"type": "str"},
    "memory_swap": {"type": "str"},
    "cpu_shares": {"type": "int"},
    "pids_limit": {"type": "int"},
    "ulimits": {"type": "dict", "default": {}},
    "shm_size": {"type": "str"},
    "restart_policy": {
        "type": "str",
        "choices": ["no", "always", "unless-stopped", "on-failure"],
        "default": "unless-stopped",
    },
    "health": {
        "type": "dict",
        "options": {
            "test": {"type": "list", "elements": "str"},
            "interval": {"type": "int", "default": 10},
            "timeout": {"type": "int", "default": 5},
            "retries": {"type": "int", "default": 3},
            "start_period": {"type": "int", "default": 60},
        },
    },
    "reload": {
        "type": "dict",
        "options": {"signal": {"type": "str"}, "command": {"type": "list", "elements": "str"}},
    },
    "depends_on": {"type": "list", "elements": "str", "default": []},
    "labels": {"type": "dict", "default": {}},
    "log": {
        "type": "dict",
        "options": {"max_size": {"type": "str", "default": "10m"}, "max_file": {"type": "int", "default": 3}},
    },
}

# What comes before the services, in the order in which they need each other.
PHASES = {
    "host": (_host.ARGUMENT_SPEC, _host.run),
    "certificates": (_certificates.ARGUMENT_SPEC, _certificates.run),
    "hosts_entries": (_hosts_file.ARGUMENT_SPEC, _hosts_file.run),
    "images": (_images.ARGUMENT_SPEC, _image_store.run),
}

ARGUMENTS: dict[str, Any] = {
    "owner": {"type": "dict", "options": _owner.ARGUMENT_SPEC},
    **{name: {"type": "dict", "options": spec} for name, (spec, _run) in PHASES.items()},
    "socket": {"type": "path", "default": _engine.SOCKET},
    "project": {"type": "str", "required": True},
    "network": {
        "type": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "required": True},
            "subnet": {"type": "str", "required": True},
            "gateway": {"type": "str"},
            "bridge": {"type": "str"},
            "mtu": {"type": "int"},
            "ensure": {"type": "bool", "default": False},
            "connections": {
                "type": "dict",
                "options": {
                    "restrict": {"type": "bool", "default": True},
                    "members": {"type": "list", "elements": "str", "default": []},
                    "rules": {
                        "type": "list",
                        "elements": "dict",
                        "default": [],
                        "options": {
                            "source": {"type": "str"},
                            "destination": {"type": "str"},
                            "ports": {"type": "list", "elements": "int", "default": []},
                            "comment": {"type": "str", "default": ""},
                        },
                    },
                },
            },
        },
    },
    "config_dir": {"type": "path", "required": True},
    "catalogue": {"type": "list", "elements": "str", "default": []},
    "state": {"type": "str", "choices": ["present", "stopped", "absent"], "default": "present"},
    "strategy": {"type": "str", "choices": ["together", "one_by_one"], "default": "together"},
    "prune": {"type": "bool", "default": False},
    "recreate": {"type": "list", "elements": "str", "default": []},
    "remove_network": {"type": "bool", "default": False},
    "remove_volumes": {"type": "bool", "default": False},
    "timeout": {"type": "int", "default": 300},
    "threads": {"type": "int", "default": 8},
    "services": {"options": SERVICE, "type": "list", "elements": "dict", "default": []},
}


class Run:
    """What one run did so far, and what comes of it."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.result: Result = {"changed": False, "actions": [], "diff": [], "services": {}}
        self.renewed = Renewed()

    def add(self, part: Result) -> None:
        """Take over the result of a phase, or of the services."""
        self.result["changed"] |= part.pop("changed")
        for name in ("actions", "diff"):
            self.result[name] += part.pop(name)
        self.result |= part

    def end(self, **more: Any) -> None:
        """Leave with the result."""
        if not self.module._diff:
            self.result.pop("diff")
        self.module.exit_json(**self.result, **more)

    def fail(self, message: str, actions: list[dict[str, Any]] | None = None, **more: Any) -> None:
        """Leave with what went wrong and what was done before."""
        self.module.fail_json(msg=message, actions=self.result["actions"] + (actions or []), **more)

    def owner(self) -> None:
        """Refuse a project that belongs to another directory."""
        if self.module.params["owner"] is not None:
            try:
                _owner.check(self.module.params["owner"])
            except PhaseError as error:
                self.fail(f"owner: {error}")

    def _claim(self) -> None:
        """Record the directory that the project belongs to, if this run makes anything of it."""
        params = self.module.params
        if params["owner"] is None or not (params["services"] or params["network"]["ensure"]):
            return
        actions = _owner.claim(params["owner"], self.module.check_mode)
        self.add({"changed": bool(actions), "actions": actions, "diff": []})

    def phases(self) -> None:
        """Converge what comes before the services.

        Ends with `again` where a new run must go on, without those that are done: it finds the libraries that this
        one installed, or has the contexts of the images that this one found missing.
        """
        done = []
        for name, (_spec, run) in PHASES.items():
            if self.module.params[name] is None:
                continue
            try:
                part = run(self.module, self.module.params[name])
            except PhaseError as error:
                self.fail(f"{name}: {error}", **error.result)
            to_build = part.pop("to_build", [])
            if to_build:
                self.end(again={"done": done, "to_build": to_build})
            done.append(name)
            actions = part["actions"]
            self.add(part)
            if self.module.check_mode:
                self._foresee(name, actions)
            elif any(action["object"] == "package" for action in actions):
                self.end(again={"done": done, "to_build": []})

    def _foresee(self, phase: str, actions: list[dict[str, Any]]) -> None:
        """Keep what check mode left as it is, but services would find made anew."""
        if phase == "certificates":
            files = _certificates.renewed(self.module.params[phase], actions)
            self.renewed = replace(self.renewed, files=files)
        elif phase == "images":
            self.renewed = replace(
                self.renewed, images=frozenset(a["name"] for a in actions if a["object"] == "image")
            )

    def services(self) -> None:
        """Converge network, files and containers."""
        params, check_mode = self.module.params, self.module.check_mode
        # Where there is no engine there is nothing to take away.
        if params["state"] != "present" and not engine.installed(params["socket"]):
            return
        if engine.docker is None and not check_mode:
            self.fail(missing_required_lib("docker"))
        client = engine.connect(params["socket"]) if engine.docker else None
        if client is None and not check_mode:
            self.fail("Docker Engine does not answer; the role host installs and starts it")
        how = Upgrader if params["strategy"] == "one_by_one" else engine.Converger
        converger = how(client, params, check_mode, self.renewed)
        try:
            if params["state"] == "present":
                converger.look()
                self._claim()
                if not check_mode:
                    converger.act()
            else:
                converger.stop(remove=params["state"] == "absent")
        except (engine.ConvergeError, PlanError, PhaseError) as error:
            self.fail(str(error), actions=converger.actions)
        self.add(converger.result())


def main() -> None:
    """Run the module."""
    run = Run(AnsibleModule(ARGUMENTS, supports_check_mode=True))
    run.owner()
    run.phases()
    run.services()
    run.end()


if __name__ == "__main__":
    main()
