#!/usr/bin/python
# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: client_certificate
short_description: Issue or revoke the X.509 client certificates of a user
version_added: 0.1.0
description:
  - Issues a client certificate from the deployment's CA of clients, for clients that authenticate by a certificate
    rather than a token. Its subject is C(CN=<user>), below the CA's organization.
  - The file holds the key followed by the certificate, with mode V(0600). The VOSpace command line tools, curl and
    OpenCADC's Java clients accept this order; the last do not find a key that follows the certificate.
  - It is reissued when it is missing, damaged, about to expire, another user's, revoked or not signed by the present
    CA.
  - All issued certificates are recorded in C(clients/issued.json) below O(directory), so that all of a user's
    certificates can be revoked, wherever they are.
author:
  - Cavern deployment team (@skasrc)
options:
  user:
    description: Name of the user.
    type: str
    required: true
  directory:
    description:
      - Directory with C(client-ca.pem), C(client-ca.key) and C(client-crl.pem), made by
        M(skasrc.cavern.certificates).
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
    description: A certificate that expires within this many days is replaced.
    type: int
    default: 7
  force:
    description: Issue a new certificate even though the present one is valid.
    type: bool
    default: false
  state:
    description:
      - V(absent) deletes the file. A copy of it stays valid until it expires.
      - V(revoked) deletes the file and revokes all of the user's certificates that have not expired. HAProxy and
        VOSpace must be given the new C(client-crl.pem), as the playbook C(revoke) does.
    type: str
    choices: [present, absent, revoked]
    default: present
requirements:
  - cryptography >= 38
attributes:
  check_mode:
    support: full
    description: Reports whether a certificate would be issued and why, without writing.
  diff_mode:
    support: none
    description: The file holds a key.
"""

EXAMPLES = r"""
- name: Issue a certificate for ada
  skasrc.cavern.client_certificate:
    user: ada
    directory: /srv/cavern/state/certs

- name: Revoke all certificates of ada
  skasrc.cavern.client_certificate:
    user: ada
    directory: /srv/cavern/state/certs
    state: revoked
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
revoked:
  description: Serial numbers, in hexadecimal, that were (in check mode, would be) revoked in this run.
  returned: if O(state=revoked)
  type: list
  elements: str
certificate:
  description: Subject, issuer, serial, end of validity and SHA-256 fingerprint.
  returned: if O(state=present), in check mode only if the present certificate is valid
  type: dict
"""

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.skasrc.cavern.plugins.module_utils import _client_ca, _files, _x509

# The names that the services accept in tokens, without the dot-dot that could leave a directory.
USER = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}\Z")


def content_of(pair: _x509.Pair) -> bytes:
    """Return the content of the file: the key first, as OpenCADC's Java clients need it."""
    return pair.key_pem + pair.certificate_pem


def reasons_to_rewrite(path: Path, pair: _x509.Pair) -> list[str]:
    """Return why the file must be rewritten although its certificate is valid, None if it need not be."""
    reasons = []
    if _files.read_bytes(path) != content_of(pair):
        reasons.append("the key does not stand alone before the certificate")
    if (mode := _files.mode_of(path)) != 0o600:
        reasons.append(f"mode was {mode:04o}, wanted 0600")
    return reasons


class Register:
    """Register of the certificates that were issued and have not expired: serial numbers with user, issuer and end."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "clients/issued.json"
        try:
            entries: dict[str, dict[str, str]] = json.loads(_files.read_bytes(self.path) or b"{}")
        except ValueError as error:
            raise ValueError(
                f"{self.path} cannot be read ({error}): bring it back from a backup, or delete it if none of the "
                "certificates it lists will ever have to be revoked"
            ) from error
        present = f"{_x509.now():%Y-%m-%dT%H:%M:%SZ}"
        self.entries = {serial: entry for serial, entry in entries.items() if entry["not_after"] > present}

    def add(self, user: str, certificate: Any) -> None:
        facts = _x509.describe(certificate)
        self.entries[facts["serial"]] = {
            "user": user,
            "issuer": facts["issuer"],
            "not_after": facts["not_after"],
        }

    def issued_to(self, user: str) -> set[tuple[str, int]]:
        """Return issuers and serial numbers of a user's certificates."""
        return {
            (entry["issuer"], int(serial, 16))
            for serial, entry in self.entries.items()
            if entry["user"] == user
        }

    def write(self) -> None:
        _files.make_directory(self.path.parent, 0o700)
        _files.write_atomic(self.path, json.dumps(self.entries, indent=1).encode() + b"\n", 0o600)


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Hold a lock, so that concurrent runs do not overwrite each other's register."""
    if not directory.is_dir():
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def reason_to_issue(module: AnsibleModule, path: Path, ca: _x509.Pair) -> tuple[str | None, Any]:
    """Return why the present file is not valid (None if it is), and its content if it can be read."""
    content = _files.read_bytes(path)
    try:
        present = _x509.load(content, content)
    except ValueError as error:
        return str(error), None
    if module.params["force"]:
        return "asked for", present
    certificate = present.certificate
    reason = _x509.leaf_reason(present, ca, module.params["renew_days"], _x509.key_type_of(ca.key))
    if reason is None and certificate.subject != _x509.client_subject(ca.certificate, module.params["user"]):
        reason = f"subject is {certificate.subject.rfc4514_string()}"
    if reason is None and _client_ca.is_revoked(
        Path(module.params["directory"]), ca.certificate, certificate.serial_number
    ):
        reason = "was revoked"
    return reason, present


def ensure_present(module: AnsibleModule, path: Path) -> dict[str, Any]:
    """Issue the certificate if needed."""
    directory = Path(module.params["directory"])
    ca = authorities(module, directory).present
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
        # Before the certificate itself: none is ever out of which nobody knows.
        register = Register(directory)
        register.add(module.params["user"], pair.certificate)
        register.write()
        _files.make_directory(path.parent, 0o700)
        _files.write_atomic(path, content_of(pair), 0o600)
        result["certificate"] = _x509.describe(pair.certificate)
    return result


def authorities(module: AnsibleModule, directory: Path) -> _client_ca.ClientAuthorities:
    try:
        return _client_ca.read(directory)
    except ValueError as error:
        module.fail_json(
            msg=f"The CA of clients in {directory} cannot be used: {error}. The role certificates makes one."
        )


def ensure_revoked(module: AnsibleModule, path: Path) -> dict[str, Any]:
    """Revoke all certificates of the user that would still be accepted, and delete the file."""
    directory, user = Path(module.params["directory"]), module.params["user"]
    clients = authorities(module, directory)
    issued = Register(directory).issued_to(user) | _issued_in(path)
    before = _files.read_bytes(directory / _client_ca.REVOCATIONS)
    known = {serial for crl in _x509.load_revocations(before) for serial in _x509.revoked_by(crl)}
    accepted = {pair.certificate.subject.rfc4514_string() for pair in clients.all()}
    revoked = sorted(serial for issuer, serial in issued if issuer in accepted and serial not in known)
    if not issued:
        module.warn(
            f"No certificate of {user} is known that has not ended. Those that an earlier version of the collection "
            "has issued, and of which no file is left, end with certificates_rotate: [previous]"
        )
    lists = _client_ca.revocations(directory, clients, issued)
    reasons = [f"{serial:x} is to be revoked" for serial in revoked]
    if path.exists():
        reasons.append("the file is there")
    if not module.check_mode:
        if lists != before:
            _files.write_atomic(directory / _client_ca.REVOCATIONS, lists, 0o644)
        path.unlink(missing_ok=True)
    return {
        "changed": bool(reasons) or lists != before,
        "reasons": reasons,
        "revoked": [f"{serial:x}" for serial in revoked],
    }


def _issued_in(path: Path) -> set[tuple[str, int]]:
    """Return the same for the certificate in a file, which an earlier version of the collection may have issued."""
    found = _x509.load_certificates(_certificate_part(path))
    return {(certificate.issuer.rfc4514_string(), certificate.serial_number) for certificate in found}


def _certificate_part(path: Path) -> bytes:
    content = _files.read_bytes(path) or b""
    begin = content.find(b"-----BEGIN CERTIFICATE-----")
    return content[begin:] if begin >= 0 else b""


def ensure_absent(module: AnsibleModule, path: Path) -> dict[str, Any]:
    """Delete the file."""
    if not path.exists():
        return {"changed": False, "reasons": []}
    if not module.check_mode:
        path.unlink()
    return {"changed": True, "reasons": ["state is absent"]}


STATES = {"present": ensure_present, "absent": ensure_absent, "revoked": ensure_revoked}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "user": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "path": {"type": "path"},
            "days": {"type": "int", "default": 30},
            "renew_days": {"type": "int", "default": 7},
            "force": {"type": "bool", "default": False},
            "state": {"type": "str", "choices": list(STATES), "default": "present"},
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
    try:
        with alone(Path(options["directory"])):
            result = STATES[options["state"]](module, path)
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"Certificate of {options['user']} in {path}: {error}")
    module.exit_json(path=str(path), **result)


if __name__ == "__main__":
    main()
