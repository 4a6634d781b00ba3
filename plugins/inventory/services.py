# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = """
name: services
author: The Cavern deployment team (@ska-telescope)
version_added: 1.0.0
short_description: Groups of a deployment's hosts, one for each service
description:
  - Makes a group for each service of the catalogue, below the group C(deployment), so that an inventory states hosts.
  - A service runs on the first host of C(deployment), unless the inventory has a group of its name with a host in it.
  - The file ends in C(services.yml) or C(services.yaml). Its name must come after those of files that name hosts, since
    Ansible reads the files of an inventory in the order of their names.
options:
  plugin:
    description: Names this plugin.
    type: str
    required: true
    choices: [skasrc.cavern.services]
  extra_services:
    description:
      - Roles from outside of the collection that provide services as well. Sets C(deployment_extra_services).
    type: list
    elements: str
    default: []
"""

EXAMPLES = """
# inventory/mysite/services.yml, beside a hosts.yml with a group `deployment`
plugin: skasrc.cavern.services
extra_services: [toy]
"""

from typing import Any

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin
from ansible_collections.skasrc.cavern.plugins.plugin_utils import _services

DEPLOYMENT = "deployment"


class InventoryModule(BaseInventoryPlugin):
    """Adds groups to what the files before it have stated."""

    NAME = "skasrc.cavern.services"

    def verify_file(self, path: str) -> bool:
        return super().verify_file(path) and path.endswith(("services.yml", "services.yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        hosts = inventory.groups[DEPLOYMENT].get_hosts() if DEPLOYMENT in inventory.groups else []
        if not hosts:
            raise AnsibleParserError(
                f"{path}: the group {DEPLOYMENT} has no host; name one in a file that comes before, such as hosts.yml"
            )
        extra = self.get_option("extra_services")
        if extra:
            inventory.set_variable("all", "deployment_extra_services", extra)
        search = _services.search_path(loader)
        for role in [*_services.own(), *extra]:
            for service in _services.entries(role, _services.statement(role, search)):
                inventory.add_group(service)
                inventory.add_child(DEPLOYMENT, service)
                if not inventory.groups[service].get_hosts():
                    inventory.add_child(service, hosts[0].name)
