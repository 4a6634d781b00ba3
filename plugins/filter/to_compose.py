# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the deployment as a Compose file."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.skasrc.cavern.plugins.module_utils._converge import compose
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.errors import PlanError


def to_compose(
    services: list[dict[str, Any]], project: str, network: dict[str, Any], config_dir: str
) -> dict[str, Any]:
    """Return the Compose file of the services that the module converge takes."""
    try:
        return compose.to_compose(services, project, network, config_dir)
    except PlanError as exc:
        raise AnsibleFilterError(f"to_compose: {exc}") from exc


class FilterModule:
    """The filter by its name."""

    def filters(self) -> dict[str, Any]:
        """Name the filter for Ansible."""
        return {"to_compose": to_compose}
