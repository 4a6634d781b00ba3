#!/usr/bin/python
# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm
short_description: Make an engine a manager of the Swarm that a deployment on several hosts has
version_added: 1.1.0
description:
  - Begins a Swarm, which has the project's name as a label, or joins that of another host as a manager. An engine that
    is in a Swarm already is left alone.
  - With O(state=absent), leaves a Swarm that this module began for the project, unless there are other networks in it.
    When several hosts leave, ask all of them in check mode first and then give O(node), since managers without the
    others cannot tell any more whose the Swarm is.
author:
  - Cavern deployment team (@skasrc)
options:
  project:
    description: Name of the deployment.
    type: str
    required: true
  address:
    description: Address at which the other hosts reach this one.
    type: str
  manager:
    description: Address of a manager whose Swarm is joined. Without it, this engine begins one.
    type: str
  token:
    description: Secret by which an engine joins as a manager, as M(skasrc.cavern.swarm_info) returns it.
    type: str
  forget:
    description:
      - Addresses of engines that are no longer in the Swarm, which still counts them. They are removed from it.
    type: list
    elements: str
    default: []
  node:
    description:
      - Identifier as which the engine is in the Swarm that it leaves, from RV(actions) of check mode. The managers are
        not asked again.
    type: str
  state:
    description: Whether the engine is in the Swarm.
    type: str
    choices: [present, absent]
    default: present
  socket:
    description: Unix socket of the Docker Engine.
    type: path
    default: /var/run/docker.sock
attributes:
  check_mode:
    support: full
    description: Reports what would be done.
  diff_mode:
    support: none
    description: Actions say all that there is.
"""

EXAMPLES = r"""
- name: Begin a Swarm
  skasrc.cavern.swarm:
    project: cavern
    address: 192.0.2.11

- name: Join it
  skasrc.cavern.swarm:
    project: cavern
    address: 192.0.2.12
    manager: 192.0.2.11
    token: "{{ found.token }}"
"""

RETURN = r"""
actions:
  description:
    - Actions taken (in check mode, that would be taken), with reasons. That of leaving has as C(node) the identifier
      as which the engine was in the Swarm.
  returned: always
  type: list
  elements: dict
  sample: [{object: swarm, name: 192.0.2.12, action: join, reasons: ["the engine is in no Swarm"]}]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.skasrc.cavern.plugins.module_utils import _engine, _swarm


def converge(node: _swarm.Node, options: dict[str, Any], check_mode: bool) -> list[dict[str, Any]]:
    """Bring the engine to the wanted state and return the actions. Raises SwarmError, EngineError."""
    if options["state"] == "absent":
        return _leave(node, options["node"], check_mode)
    actions = []
    if not node.is_member():
        address, manager = options["address"], options["manager"]
        action = "join" if manager else "create"
        actions.append(_action(address, action, "the engine is in no Swarm"))
        if not check_mode and manager:
            node.join(address, manager, options["token"])
        elif not check_mode:
            node.init(address)
    elif options["forget"]:
        if check_mode:
            return [_action(address, "forget", "it joins anew") for address in options["forget"]]
        actions += [_action(address, "forget", "it joins anew") for address in node.forget(options["forget"])]
    return actions


def _leave(node: _swarm.Node, decided: str | None, check_mode: bool) -> list[dict[str, Any]]:
    if _engine.ask(node.path) is None or not node.is_member():
        return []
    identity = node.identity()
    if identity != decided if decided else node.reason_to_stay():
        return []
    if not check_mode:
        node.leave()
    return [_action(node.project, "leave", "state is absent") | {"node": identity}]


def _warning(node: _swarm.Node) -> str:
    """Return what to tell of an engine that stays because nobody knows whose its Swarm is, nothing of any other."""
    problem = node.problem() if _engine.ask(node.path) is not None else ""
    return problem and (
        f"the engine stays in its Swarm, which cannot tell whose it is ({problem}); if it was the deployment's: "
        "docker swarm leave --force"
    )


def _action(name: str, action: str, reason: str) -> dict[str, Any]:
    return {"object": "swarm", "name": name, "action": action, "reasons": [reason]}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "str", "required": True},
            "address": {"type": "str"},
            "manager": {"type": "str"},
            "token": {"type": "str", "no_log": True},
            "forget": {"type": "list", "elements": "str", "default": []},
            "node": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "socket": {"type": "path", "default": _engine.SOCKET},
        },
        required_if=[("state", "present", ["address"])],
        required_together=[("manager", "token")],
        supports_check_mode=True,
    )
    options = module.params
    node = _swarm.Node(options["socket"], options["project"])
    try:
        actions = converge(node, options, module.check_mode)
        if options["state"] == "absent" and not actions and (warning := _warning(node)):
            module.warn(warning)
    except (_swarm.SwarmError, _engine.EngineError) as error:
        module.fail_json(msg=f"swarm: {error}")
    module.exit_json(changed=bool(actions), actions=actions)


if __name__ == "__main__":
    main()
