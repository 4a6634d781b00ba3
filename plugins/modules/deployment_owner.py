#!/usr/bin/python
# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: deployment_owner
short_description: Refuse a deployment that belongs to another directory
version_added: 1.0.0
description:
  - A deployment on a Docker Engine belongs to the directory from which it was made. The module fails if the deployment
    O(project) belongs to a directory other than O(directory), and names both.
  - The directory is recorded in a label of an empty volume. A deployment without that volume is identified by the
    directory that its containers' configuration is mounted from.
  - The module M(skasrc.cavern.converge) makes the same check and records the directory; this one is for tasks before
    it. It needs no Python library.
author:
  - Cavern deployment team (@skasrc)
extends_documentation_fragment: [skasrc.cavern.deployment_owner, skasrc.cavern.attributes.read_only]
"""

EXAMPLES = r"""
- name: Refuse a deployment of another directory
  skasrc.cavern.deployment_owner:
    project: cavern
    directory: /srv/cavern
    config_dir: /srv/cavern/state/config
  become: true
"""

RETURN = r"""
directory:
  description: The recorded directory; none if there is no such deployment, or it did not record it.
  returned: success
  type: str
  sample: /srv/cavern
"""

from ansible_collections.skasrc.cavern.plugins.module_utils import _owner
from ansible_collections.skasrc.cavern.plugins.module_utils._phase import run_alone


def main() -> None:
    run_alone(_owner.ARGUMENT_SPEC, _owner.run)


if __name__ == "__main__":
    main()
