#!/usr/bin/python
# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: client_certificate
short_description: An X.509 client certificate for a user
version_added: 0.1.0
description:
  - Issues a client certificate from the deployment's own CA, for clients that present a certificate rather
    than a token. Its subject is C(CN=<user>).
  - The file holds the key and after it the certificate, with mode V(0600). In this order the VOSpace command
    line tools, curl and OpenCADC's Java clients take it; the last miss a key that follows the certificate.
  - It is issued again when it is missing or damaged, nears its end, is another user's or was not signed by
    the present CA.
author:
  - Cavern deployment team (@skasrc)
options:
  user:
    description: Name of the user.
    type: str
    required: true
  directory:
    description: Directory with the CA's C(ca.pem) and C(ca.key), made by M(skasrc.cavern.certificates).
    type: path
    required: true
  path:
    description: File to write. The default is C(clients/<user>.pem) below O(directory).
    type: path
  days:
    description: Days that a new certificate is valid. It never outlives the CA.
    type: int
    default: 30
  renew_days:
    description: A certificate that ends within this many days is replaced.
    type: int
    default: 7
  force:
    description: Issue a new certificate even though the present one still serves.
    type: bool
    default: false
  state:
    description:
      - V(absent) deletes the file. There is no revocation list, so a copy of it stays valid until it ends.
    type: str
    choices: [present, absent]
    default: present
requirements:
  - cryptography >= 38
attributes:
  check_mode:
    support: full
    description: Tells whether a certificate would be issued and why, without writing.
  diff_mode:
    support: none
    description: The file holds a key.
"""

EXAMPLES = r"""
- name: A certificate for Ada
  skasrc.cavern.client_certificate:
    user: ada
    directory: /srv/cavern/state/certs
"""

RETURN = r"""
path:
  description: The file.
  returned: always
  type: str
reasons:
  description: Why it was (in check mode, would be) issued or deleted.
  returned: always
  type: list
  elements: str
certificate:
  description: Subject, issuer, serial, end of validity and SHA-256 fingerprint.
  returned: if O(state=present), in check mode only if the present certificate serves
  type: dict
"""

import re
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.skasrc.cavern.plugins.module_utils import _files, _x509

# The names that the services accept in tokens, without the dot-dot that could leave a directory.
USER = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}\Z")


def content_of(pair: _x509.Pair) -> bytes:
    """What is in the file: the key first, which OpenCADC's Java clients need."""
    return pair.key_pem + pair.certificate_pem


def reasons_to_rewrite(path: Path, pair: _x509.Pair) -> list[str]:
    """Why the file must be written again although its certificate serves."""
    reasons = []
    if _files.read_bytes(path) != content_of(pair):
        reasons.append("the key does not stand alone before the certificate")
    if (mode := _files.mode_of(path)) != 0o600:
        reasons.append(f"mode was {mode:04o}, wanted 0600")
    return reasons


def reason_to_issue(module: AnsibleModule, path: Path, ca: _x509.Pair) -> tuple[str | None, Any]:
    """Why the present file does not serve (None if it does), and what it holds if it can be read."""
    content = _files.read_bytes(path)
    try:
        present = _x509.load(content, content)
    except ValueError as error:
        return str(error), None
    if module.params["force"]:
        return "asked for", present
    if present.certificate.subject != _x509.subject(module.params["user"]):
        return f"subject is {present.certificate.subject.rfc4514_string()}", present
    reason = _x509.leaf_reason(present, ca, module.params["renew_days"], _x509.key_type_of(ca.key))
    return reason, present


def ensure_present(module: AnsibleModule, path: Path) -> dict[str, Any]:
    """Issue the certificate if needed."""
    directory = Path(module.params["directory"])
    try:
        ca = _x509.load(_files.read_bytes(directory / "ca.pem"), _files.read_bytes(directory / "ca.key"))
    except ValueError as error:
        module.fail_json(
            msg=f"The CA in {directory} cannot be used: {error}. The role certificates makes one."
        )
    reason, pair = reason_to_issue(module, path, ca)
    if reason is None:
        reasons = reasons_to_rewrite(path, pair)
        if reasons and not module.check_mode:
            _files.write_atomic(path, content_of(pair), 0o600)
        return {
            "changed": bool(reasons),
            "reasons": reasons,
            "certificate": _x509.describe(pair.certificate),
        }
    result: dict[str, Any] = {"changed": True, "reasons": [reason]}
    if not module.check_mode:
        pair = _x509.issue_client(ca, module.params["user"], module.params["days"], _x509.key_type_of(ca.key))
        _files.make_directory(path.parent, 0o700)
        _files.write_atomic(path, content_of(pair), 0o600)
        result["certificate"] = _x509.describe(pair.certificate)
    return result


def ensure_absent(module: AnsibleModule, path: Path) -> dict[str, Any]:
    """Delete the file."""
    if not path.exists():
        return {"changed": False, "reasons": []}
    if not module.check_mode:
        path.unlink()
    return {"changed": True, "reasons": ["state is absent"]}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "user": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "path": {"type": "path"},
            "days": {"type": "int", "default": 30},
            "renew_days": {"type": "int", "default": 7},
            "force": {"type": "bool", "default": False},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    if _x509.CRYPTOGRAPHY_ERROR:
        module.fail_json(msg=missing_required_lib("cryptography >= 38"), exception=_x509.CRYPTOGRAPHY_ERROR)
    options = module.params
    if not USER.match(options["user"]):
        module.fail_json(
            msg=f"user: {options['user']!r} is not a user name (1 to 64 letters, digits and '_.@-', "
            "the first a letter or digit, no '..')"
        )
    if not 0 <= options["renew_days"] < options["days"]:
        module.fail_json(
            msg=f"days: {options['days']} must be more than renew_days ({options['renew_days']}), "
            "or each run would issue a new certificate"
        )
    path = Path(options["path"] or Path(options["directory"]) / "clients" / f"{options['user']}.pem")
    ensure = ensure_present if options["state"] == "present" else ensure_absent
    try:
        result = ensure(module, path)
    except OSError as error:
        module.fail_json(msg=f"Certificate of {options['user']} in {path}: {error}")
    module.exit_json(path=str(path), **result)


if __name__ == "__main__":
    main()
