#!/usr/bin/python
# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: deployment_secrets
short_description: Generate and check the secrets of a deployment
version_added: 0.1.0
description:
  - Reads the secrets file of the deployment on the controller, and generates the secrets that it lacks. Existing
    secrets are kept, unless their rotation is asked for.
  - The file has mode V(0600), is replaced atomically, and is locked while it is read and written, so that concurrent
    runs agree.
  - Values never appear in output or diffs.
author:
  - Cavern deployment team (@skasrc)
options:
  path:
    description: The file, on the controller. It and its directory are created if missing.
    type: path
    required: true
  overrides:
    description:
      - Secrets given by the caller, for example from Ansible Vault. They take precedence over those of the file and
        are not written to it.
      - An unknown name, or a value that the service could not use, is refused.
    type: dict
    default: {}
  rotate:
    description: Names of secrets to replace by new ones; V(all) for every one.
    type: list
    elements: str
    default: []
  owner:
    description:
      - Options of M(skasrc.cavern.deployment_owner). No secret is generated for a deployment that belongs to another
        directory.
      - That module runs on the host, with the task's C(become).
    type: dict
  state:
    description:
      - V(absent) deletes the file. Data that was encrypted with its keys is then lost.
    type: str
    choices: [present, absent]
    default: present
attributes:
  action:
    support: full
    description: Runs on the controller only.
  check_mode:
    support: full
    description:
      - Nothing is written. Missing secrets get temporary values, so that later tasks can be checked; their names are
        in RV(ephemeral).
  diff_mode:
    support: none
    description: The file holds secrets.
"""

EXAMPLES = r"""
- name: Read or generate the secrets
  skasrc.cavern.deployment_secrets:
    path: /srv/cavern/state/secrets.yml
  register: deployment_secrets

- name: Replace the broker's password
  skasrc.cavern.deployment_secrets:
    path: /srv/cavern/state/secrets.yml
    rotate: [rabbitmq_password]
"""

RETURN = r"""
path:
  description: The file.
  returned: success
  type: str
created:
  description: Names of the secrets that were generated because they were missing.
  returned: if O(state=present)
  type: list
  elements: str
rotated:
  description: Names of the secrets that were replaced.
  returned: if O(state=present)
  type: list
  elements: str
overridden:
  description: Names of the secrets that the caller gave.
  returned: if O(state=present)
  type: list
  elements: str
ephemeral:
  description: In check mode, names of the secrets with temporary values.
  returned: if O(state=present)
  type: list
  elements: str
issuer_key_id:
  description: Key ID under which the issuer publishes the public key of C(iam_signing_key).
  returned: if O(state=present)
  type: str
secrets:
  description: Every secret by name.
  returned: if O(state=present)
  type: dict
"""

# The work is done by the action plugin of the same name.
