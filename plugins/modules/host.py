#!/usr/bin/python
# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host
short_description: Install the prerequisites on a host
version_added: 0.1.0
description:
  - Installs and starts Docker Engine, installs the Python libraries that the collection's modules need, and creates
    directories and programs, in one module run.
  - An Engine whose API answers is left alone, however it was installed. Otherwise the distribution's packages
    are installed (Debian), and the Engine is started by systemd where it runs the host, else by the init
    script, else directly with its log in C(/var/log/dockerd.log). The module waits until the API answers.
  - What it created besides packages is recorded in O(record), so that O(state=absent) removes exactly that.
author:
  - Cavern deployment team (@skasrc)
extends_documentation_fragment: [skasrc.cavern.host]
attributes:
  check_mode:
    support: full
    description: Reports what would be installed, started and created, without doing it.
  diff_mode:
    support: full
    description: Shows the list of actions.
"""

EXAMPLES = r"""
- name: Docker Engine and the data directory
  skasrc.cavern.host:
    record: /srv/cavern/state/host.json
    directories:
      - path: /srv/cavern/data/rse_data
"""

RETURN = r"""
actions:
  description: Actions taken (in check mode, that would be taken), with reasons.
  returned: always
  type: list
  elements: dict
  sample: [{object: engine, name: docker, action: start, reasons: ["/var/run/docker.sock does not answer"]}]
engine:
  description: Version and API version of Docker Engine, and how it was started if it was.
  returned: if O(state=present); in check mode only if the Engine answers
  type: dict
  sample: {version: 20.10.24+dfsg1, api_version: "1.41", started_by: dockerd}
"""

from ansible_collections.skasrc.cavern.plugins.module_utils import _host
from ansible_collections.skasrc.cavern.plugins.module_utils._phase import run_alone


def main() -> None:
    run_alone(_host.ARGUMENT_SPEC, _host.run)


if __name__ == "__main__":
    main()
