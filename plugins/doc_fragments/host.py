# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prerequisites on a host: options of the module host, and of converge below the option of that name."""

from __future__ import annotations

from ansible_collections.skasrc.cavern.plugins.plugin_utils._nested import nested_fragment


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  socket:
    description: The Engine's socket.
    type: path
    default: /var/run/docker.sock
  minimum_api_version:
    description: Oldest API version that is accepted.
    type: str
    default: "1.41"
  engine_packages:
    description:
      - Packages that bring the Engine and its command line client.
      - Those that the host's archive does not know are passed over, except the first.
    type: list
    elements: str
    default: [docker.io, docker-cli, iptables, ca-certificates]
  python_libraries:
    description:
      - Python libraries that the modules need, with the package of each. A library that the present
        interpreter has is fine wherever it came from.
      - For an interpreter that is not the system's, the module fails and says what to install.
    type: dict
    default: {}
  timeout:
    description: Seconds to wait for package locks and for the Engine's API, each.
    type: int
    default: 120
  directories:
    description: Directories to create if missing.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: The directory.
        type: path
        required: true
      mode:
        description: Its permissions. Without it, V(0755) at creation and no change later.
        type: str
      owner:
        description: Numeric user id. Without it, the owner of the parent directory at creation and no change
          later.
        type: int
      group:
        description: Numeric group id, as O(directories[].owner).
        type: int
      former_owners:
        description:
          - Numeric user ids. If the directory belongs to one of them and goes to O(directories[].owner), what that user
            owns below it goes with it.
        type: list
        elements: int
        default: []
      operator_reads:
        description:
          - Whether the owner of the parent directory, who deploys, reads what is in it too, by an access control list.
          - It has no effect on a file system without such lists.
        type: bool
        default: false
  programs:
    description: Executable files.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description:
          - The file. A leading C(~) is the home directory of the user who called sudo, if the module runs by
            sudo.
        type: str
        required: true
      content:
        description: The program. A file of that name with other content is replaced if this module wrote it.
        type: str
        required: true
  record:
    description: File in which the module records what it created.
    type: path
    required: true
  state:
    description:
      - V(absent) deletes the programs, O(record), and those directories noted there that are empty. Docker
        Engine and packages stay.
    type: str
    choices: [present, absent]
    default: present
"""

    # Annotated, since ansible-test takes what a plain assignment has for a text.
    NESTED: str = nested_fragment("host", DOCUMENTATION)
