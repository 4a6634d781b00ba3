# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Owner of a deployment: options of the module deployment_owner, and of converge below the option owner."""

from __future__ import annotations

from ansible_collections.skasrc.cavern.plugins.plugin_utils._nested import nested_fragment


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  project:
    description: Name of the deployment.
    type: str
    required: true
  directory:
    description: Directory of the deployment on this host.
    type: path
    required: true
  config_dir:
    description: Directory of its configuration, by which a deployment is known that did not record its directory.
    type: path
    required: true
  data_dir:
    description: Directory of its data, by which volumes without containers are known that did not record it either.
    type: path
  takeover:
    description: Accept a deployment that belongs to another directory; M(skasrc.cavern.converge) then records this one.
    type: bool
    default: false
  socket:
    description: Socket of Docker Engine.
    type: path
    default: /var/run/docker.sock
"""

    # Annotated, since ansible-test takes what a plain assignment has for a text.
    NESTED: str = nested_fragment("owner", DOCUMENTATION, module="deployment_owner")
