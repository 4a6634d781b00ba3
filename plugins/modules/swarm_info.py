#!/usr/bin/python
# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm_info
short_description: Report what a deployment on several hosts must know of each
version_added: 1.1.0
description:
  - Returns what Docker Engine tells of itself, of the Swarm that it is in, of the networks of a name, and of its
    containers.
author:
  - Cavern deployment team (@skasrc)
extends_documentation_fragment: [skasrc.cavern.attributes.read_only]
options:
  project:
    description: Project whose label a Swarm has that M(skasrc.cavern.swarm) made.
    type: str
    required: true
  network:
    description: Name of the networks to report.
    type: str
    required: true
  address:
    description:
      - How other hosts reach this one, as an address, an interface or a name. By default the address from which the
        default route leaves.
    type: str
    default: ""
  encrypted:
    description: Whether to ask the kernel if it encrypts packets (IPsec), which takes root.
    type: bool
    default: false
  token:
    description: Whether to return the secret by which another engine joins as a manager.
    type: bool
    default: false
  socket:
    description: Unix socket of the Docker Engine.
    type: path
    default: /var/run/docker.sock
"""

EXAMPLES = r"""
- name: Look at the engine
  skasrc.cavern.swarm_info:
    project: cavern
    network: docker26
  register: found
"""

RETURN = r"""
host:
  description: What was found. Null where no engine answers.
  returned: success
  type: dict
  contains:
    engine: {description: Identity of the engine., type: str}
    version: {description: Version of Docker Engine., type: str, sample: 20.10.24+dfsg1}
    architecture: {description: Architecture of the machine., type: str, sample: x86_64}
    address: {description: Where other hosts reach this one., type: str, sample: 192.0.2.11}
    mtu: {description: Largest packet of that address's interface in bytes., type: int, sample: 1500}
    ipsec: {description: Whether the kernel encrypts packets. Null unless O(encrypted)., type: bool}
    swarm:
      description: >-
        State, address and identity of the Swarm that it is in, whose project it is, whether this engine is one of its
        managers, and why the managers cannot decide anything.
      type: dict
      sample: {state: active, address: 192.0.2.11, manager: true, cluster: vifn4j5nj7bb, project: cavern, problem: ""}
    networks:
      description: The networks of that name.
      type: list
      elements: dict
      contains:
        driver: {description: Its driver., type: str, sample: overlay}
        scope: {description: Whether it is of this host or of a Swarm., type: str, sample: swarm}
        attachable: {description: Whether containers may join it that are no services of the Swarm., type: bool}
        project: {description: Whose it is., type: str, sample: cavern}
        subnet: {description: Its subnet., type: str, sample: 172.26.0.0/16}
        ip_range: {description: Part of it from which addresses are chosen., type: str, sample: 172.26.255.0/24}
    containers:
      description: All containers, with their addresses in the network.
      type: list
      elements: dict
      sample: [{name: haproxy, project: cavern, service: haproxy, address: 172.26.0.2}]
token:
  description: Secret by which another engine joins as a manager.
  returned: if O(token)
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.skasrc.cavern.plugins.module_utils import _engine, _swarm


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "str", "required": True},
            "network": {"type": "str", "required": True},
            "address": {"type": "str", "default": ""},
            "encrypted": {"type": "bool", "default": False},
            # Whether to tell it is no secret.
            "token": {"type": "bool", "default": False, "no_log": False},
            "socket": {"type": "path", "default": _engine.SOCKET},
        },
        supports_check_mode=True,
    )
    options = module.params
    node = _swarm.Node(options["socket"], options["project"])
    try:
        host = node.describe(options["address"], options["network"], options["encrypted"])
        token = {"token": node.token()} if options["token"] else {}
    except (_swarm.SwarmError, _engine.EngineError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, host=host, **token)


if __name__ == "__main__":
    main()
