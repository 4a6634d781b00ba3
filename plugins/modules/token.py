#!/usr/bin/python
# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: token
short_description: Request an access token from an OpenID Connect issuer
version_added: 0.1.0
description:
  - Requests an access token from an issuer's token endpoint, which is found by OpenID Connect Discovery.
  - Set C(no_log=true) on the task, since its result is the token.
author:
  - Cavern deployment team (@skasrc)
extends_documentation_fragment:
  - skasrc.cavern.connection
options:
  issuer:
    description: The issuer. The development issuer below O(url) if omitted.
    type: str
  grant:
    description:
      - V(password) asks on behalf of O(username) (RFC 6749 section 4.3). The development issuer offers it.
      - V(client_credentials) asks for the client itself (RFC 6749 section 4.4).
      - V(token_exchange) asks for another token of the user of O(subject_token), such as one for another audience or
        with a longer lifetime (RFC 8693).
    type: str
    choices: [password, client_credentials, token_exchange]
    default: password
  client_id:
    description: ID of the client.
    type: str
    required: true
  client_secret:
    description: Secret of the client.
    type: str
    required: true
  username:
    description: The user. Required with O(grant=password).
    type: str
  password:
    description: The user's password. Required with O(grant=password).
    type: str
  subject_token:
    description: A valid token of the user. Required with O(grant=token_exchange).
    type: str
  expires_in:
    description: Lifetime of the token in seconds, if the issuer lets a client choose it.
    type: int
  audience:
    description: Service that the token is meant for.
    type: str
  scope:
    description: Scopes of the token.
    type: list
    elements: str
attributes:
  check_mode:
    support: full
    description: A token is requested in check mode as well. Nothing is ever changed.
  diff_mode:
    support: none
    description: Nothing is ever changed.
"""

EXAMPLES = r"""
- name: Get a token of the user ada
  skasrc.cavern.token:
    issuer: https://haproxy.cadc.dao.nrc.ca/iam
    username: ada
    password: "{{ deployment_secrets.iam_user_password }}"
    client_id: cavern-cli
    client_secret: "{{ deployment_secrets.iam_client_cavern_cli }}"
    ca_path: state/certs/ca.pem
  register: ada
  no_log: true
"""

RETURN = r"""
token:
  description: The access token.
  returned: success
  type: str
  sample: eyJhbGciOi…
token_type:
  description: Type of the token, as stated by the issuer.
  returned: success
  type: str
  sample: Bearer
expires_in:
  description: Lifetime in seconds. Null if the issuer does not state it.
  returned: success
  type: int
  sample: 3600
issuer:
  description: The issuer that was asked.
  returned: success
  type: str
  sample: https://haproxy.cadc.dao.nrc.ca/iam
"""

from typing import Any
from urllib.parse import urlencode

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.skasrc.cavern.plugins.module_utils import _http

GRANTS = {
    "password": "password",
    "client_credentials": "client_credentials",
    "token_exchange": "urn:ietf:params:oauth:grant-type:token-exchange",
}
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - the name of a kind of token


def find_endpoint(client: _http.Client, issuer: str) -> str:
    """Return the issuer's token endpoint (OpenID Connect Discovery 1.0 section 4)."""
    answer = client.request("GET", f"{issuer.rstrip('/')}/.well-known/openid-configuration")
    if answer.status != 200:
        raise answer.error()
    metadata = answer.json()
    if not isinstance(metadata, dict) or not isinstance(metadata.get("token_endpoint"), str):
        raise _http.ServiceError(f"{answer.url}: the answer names no token_endpoint")
    if metadata.get("issuer") != issuer:
        raise _http.ServiceError(
            f"{answer.url}: it is the metadata of {metadata.get('issuer')!r}, not of {issuer!r}"
        )
    return str(metadata["token_endpoint"])


def form(params: dict[str, Any]) -> dict[str, str]:
    """Return the fields of the token request."""
    fields = {"grant_type": GRANTS[params["grant"]]}
    if params["grant"] == "password":
        fields |= {"username": params["username"], "password": params["password"]}
    if params["grant"] == "token_exchange":
        fields |= {"subject_token": params["subject_token"], "subject_token_type": ACCESS_TOKEN}
    if params["expires_in"] is not None:
        fields["expires_in"] = str(params["expires_in"])
    if params["audience"]:
        fields["audience"] = params["audience"]
    if params["scope"]:
        fields["scope"] = " ".join(params["scope"])
    return fields


def get_token(client: _http.Client, issuer: str, params: dict[str, Any]) -> dict[str, Any]:
    """Request a token. Raises ServiceError if the issuer refuses."""
    answer = client.request(
        "POST",
        find_endpoint(client, issuer),
        body=urlencode(form(params)),
        headers={"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"},
        credentials=(params["client_id"], params["client_secret"]),
    )
    if answer.status != 200:
        raise answer.error()
    granted = answer.json()
    if not isinstance(granted, dict) or not isinstance(granted.get("access_token"), str):
        raise _http.ServiceError(f"{answer.url}: the answer holds no access_token")
    return granted


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_http.CONNECTION_SPEC,
            "issuer": {"type": "str"},
            "grant": {"type": "str", "choices": list(GRANTS), "default": "password"},
            "client_id": {"type": "str", "required": True},
            "client_secret": {"type": "str", "required": True, "no_log": True},
            "username": {"type": "str"},
            "password": {"type": "str", "no_log": True},
            "subject_token": {"type": "str", "no_log": True},
            "expires_in": {"type": "int"},
            "audience": {"type": "str"},
            "scope": {"type": "list", "elements": "str"},
        },
        required_one_of=[("issuer", "url")],
        required_if=[
            ("grant", "password", ("username", "password")),
            ("grant", "token_exchange", ("subject_token",)),
        ],
        supports_check_mode=True,
    )
    params = module.params
    if params["expires_in"] is not None and params["expires_in"] < 1:
        module.fail_json(
            msg=f"expires_in: {params['expires_in']} is no life of a token; give seconds from 1 on"
        )
    # An issuer is an identifier, compared character by character: that of SKA IAM ends in a slash.
    issuer = params["issuer"] or f"{params['url'].rstrip('/')}/iam"
    try:
        _http.check_url("issuer" if params["issuer"] else "url", issuer)
        _http.check_ca(params["ca_path"])
        client = _http.Client(
            ca_path=params["ca_path"], timeout=params["request_timeout"], use_proxy=params["use_proxy"]
        )
        granted = get_token(client, issuer, params)
    except (ValueError, _http.ServiceError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=False,
        token=granted["access_token"],
        token_type=granted.get("token_type", "Bearer"),
        expires_in=granted.get("expires_in"),
        issuer=issuer,
    )


if __name__ == "__main__":
    main()
