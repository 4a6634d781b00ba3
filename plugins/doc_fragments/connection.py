# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of all modules that talk to the services of a deployment."""

from __future__ import annotations


class ModuleDocFragment:
    # What all modules of the action group take, so that it can be given once as the group's defaults.
    DOCUMENTATION = r"""
options:
  url:
    description:
      - Public base URL of the deployment, without a trailing slash, such as V(https://haproxy.cadc.dao.nrc.ca).
    type: str
  ca_path:
    description:
      - PEM file with the CA certificates that the services' certificates are verified with.
      - Without it, the host's own CA certificates are used. Verification cannot be turned off.
    type: path
  request_timeout:
    description: Longest wait for one answer, in seconds.
    type: float
    default: 30
  use_proxy:
    description:
      - Whether the services are asked by way of the proxy that the environment names, such as C(HTTPS_PROXY).
      - A deployment is usually nearer than any proxy.
    type: bool
    default: false
attributes:
  action_group:
    description: Defaults given to the group reach this module.
    support: full
    membership: [skasrc.cavern.cavern]
"""

    # What modules take besides that act on behalf of a user.
    USER = r"""
options:
  token:
    description:
      - Access token of the user, as M(skasrc.cavern.token) returns it.
      - Mutually exclusive with O(token_file).
    type: str
  token_file:
    description: File on the managed host that holds the access token.
    type: path
"""
