#!/usr/bin/python
# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: converge
short_description: Bring the network, configuration and containers of a deployment to the wanted state
version_added: 0.1.0
author:
  - Cavern deployment team (@ska-telescope)
description:
  - Compares network, configuration files, volumes, containers and health of several services with what is wanted and
    changes what differs, all in one task.
  - Where O(host), O(certificates), O(hosts_entries) or O(images) are given, what M(skasrc.cavern.host),
    M(skasrc.cavern.certificates), M(skasrc.cavern.hosts_entries) and M(skasrc.cavern.images) do comes first, in this
    order. One run for all is several times as fast as one for each, whose start costs more than its work.
  - Services that do not depend on each other are started side by side; a service waits until those in its
    O(services[].depends_on) are healthy.
  - Compares with what actually runs, so that changes made by hand are found and undone.
  - Everything it creates is labelled with the O(project), and it never touches a container of another one.
  - Where O(owner) is given, a project that belongs to another directory is refused before anything changes.
extends_documentation_fragment:
  - skasrc.cavern.converge
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

- name: Remove all containers of the deployment
  skasrc.cavern.converge:
    project: example
    network: {name: example, subnet: 172.30.0.0/24}
    config_dir: /srv/example/config
    state: absent
"""

RETURN = r"""
actions:
  description: Actions taken, or in check mode that would be taken, with reasons.
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

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.skasrc.cavern.plugins.module_utils import (
    _certificates,
    _docker,
    _engine,
    _host,
    _hosts_file,
    _owner,
)
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.arguments import argument_spec
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.errors import ConvergeError, PlanError
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.parameters import PARAMETERS
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.project import Converger
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.service import Renewed
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.upgrade import Upgrader
from ansible_collections.skasrc.cavern.plugins.module_utils._images import phase, recipes
from ansible_collections.skasrc.cavern.plugins.module_utils._phase import PhaseError, Result

# What comes before the services, in the order in which they need each other.
PHASES: dict[str, tuple[dict[str, Any], Callable[[AnsibleModule, dict[str, Any]], Result]]] = {
    "host": (_host.ARGUMENT_SPEC, _host.run),
    "certificates": (_certificates.ARGUMENT_SPEC, _certificates.run),
    "hosts_entries": (_hosts_file.ARGUMENT_SPEC, _hosts_file.run),
    "images": (recipes.ARGUMENT_SPEC, phase.run),
}

ARGUMENTS: dict[str, Any] = {
    "owner": {"type": "dict", "options": _owner.ARGUMENT_SPEC},
    **{name: {"type": "dict", "options": spec} for name, (spec, _run) in PHASES.items()},
    **argument_spec(PARAMETERS),
}


class Run:
    """A run of the module, and its result so far."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.result: Result = {"changed": False, "actions": [], "diff": [], "services": {}}
        self.renewed = Renewed()

    def add(self, part: Result) -> None:
        """Add the result of a phase, or of the services."""
        self.result["changed"] |= part.pop("changed")
        for name in ("actions", "diff"):
            self.result[name] += part.pop(name)
        self.result |= part

    def end(self, **more: Any) -> None:
        """Exit with the result."""
        if not self.module._diff:
            self.result.pop("diff")
        self.module.exit_json(**self.result, **more)

    def fail(self, message: str, actions: list[dict[str, Any]] | None = None, **more: Any) -> None:
        """Exit with what failed and what was done before."""
        self.module.fail_json(msg=message, actions=self.result["actions"] + (actions or []), **more)

    def owner(self) -> None:
        """Refuse a project that belongs to another directory."""
        if self.module.params["owner"] is not None:
            try:
                _owner.check(self.module.params["owner"])
            except PhaseError as error:
                self.fail(f"owner: {error}")

    def _claim(self) -> None:
        """Record the directory that the project belongs to, if this run creates anything of it."""
        params = self.module.params
        if params["owner"] is None or not (params["services"] or params["network"]["ensure"]):
            return
        actions = _owner.claim(params["owner"], self.module.check_mode)
        self.add({"changed": bool(actions), "actions": actions, "diff": []})

    def phases(self) -> None:
        """Converge what comes before the services.

        Exits with `again` where another run must go on, without the phases that are done: it can import the libraries
        that this one installed, or has the build contexts of the images that this one found missing.
        """
        done: list[str] = []
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
                self._predict(name, actions)
            elif any(action["object"] == "package" for action in actions):
                self.end(again={"done": done, "to_build": []})

    def _predict(self, phase: str, actions: list[dict[str, Any]]) -> None:
        """Keep what a phase would replace, so that check mode can predict what services make of it."""
        if phase == "certificates":
            files = _certificates.renewed(self.module.params[phase], actions)
            self.renewed = replace(self.renewed, files=files)
        elif phase == "images":
            self.renewed = replace(
                self.renewed, images=frozenset(a["name"] for a in actions if a["object"] == "image")
            )

    def services(self) -> None:
        """Converge network, files and containers."""
        params = self.module.params
        # Where there is no Engine there is nothing to remove.
        present = _engine.installed() or Path(params["socket"]).exists()
        if params["state"] != "present" and not present:
            return
        kind = Upgrader if params["strategy"] == "one_by_one" else Converger
        converger = kind(self._client(), params, self.module.check_mode, self.renewed)
        try:
            self._converge(converger)
        except (ConvergeError, PlanError, PhaseError) as error:
            self.fail(str(error), actions=converger.actions)
        self.add(converger.result())

    def _client(self) -> Any:
        """Return a client of Docker Engine, None where check mode finds none."""
        if _docker.LIBRARY_ERROR and not self.module.check_mode:
            self.fail(missing_required_lib("docker"))
        client = (
            None if _docker.LIBRARY_ERROR else _docker.reach(self.module.params["socket"], 300, num_pools=32)
        )
        if client is None and not self.module.check_mode:
            self.fail("Docker Engine does not answer; the role host installs and starts it")
        return client

    def _converge(self, converger: Converger) -> None:
        state = self.module.params["state"]
        if state != "present":
            converger.stop(remove=state == "absent")
            return
        converger.plan()
        self._claim()
        if not self.module.check_mode:
            converger.apply()


def main() -> None:
    """Run the module."""
    run = Run(AnsibleModule(ARGUMENTS, supports_check_mode=True))
    run.owner()
    run.phases()
    run.services()
    run.end()


if __name__ == "__main__":
    main()
