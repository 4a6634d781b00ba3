#!/usr/bin/python
# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: certificates
short_description: The deployment's certificate authorities and server certificate
version_added: 0.1.0
description:
  - Creates a certificate authority of the deployment's own and a server certificate for the public name, another
    authority for client certificates with the list of those that it has revoked, and derives from them what the
    services and their clients read.
  - A certificate is issued again when it is missing or damaged, nears its end, was not signed by the present
    CA, or is for other names than wanted. Otherwise it is left as it is.
  - When the CA is replaced, the one before it stays trusted until it ends, and certifies the new one, so that
    neither services nor clients that know only one of the two fail.
  - The CA of clients names nobody beyond O(organization) and no machine. When it is replaced, the certificates of
    the one before are accepted until that ends. Where the CA of servers issued client certificates too, as this
    module had it once, that one counts as the one before.
  - Files are replaced in one step each. Keys have mode V(0600), and never appear in results or diffs.
author:
  - Cavern deployment team (@skasrc)
extends_documentation_fragment: [skasrc.cavern.certificates]
requirements:
  - cryptography >= 38
  - cryptography >= 45 for C(truststore.p12), which is left out with a warning otherwise
attributes:
  check_mode:
    support: full
    description: Tells what would be issued and why, without writing.
  diff_mode:
    support: full
    description: Shows subjects, names, dates and fingerprints. Keys are never shown.
"""

EXAMPLES = r"""
- name: Certificates for the public name
  skasrc.cavern.certificates:
    directory: /srv/cavern/state/certs
    common_name: haproxy.cadc.dao.nrc.ca
    addresses: [127.0.0.1, 172.26.0.2]

- name: A new server certificate at once
  skasrc.cavern.certificates:
    directory: /srv/cavern/state/certs
    common_name: haproxy.cadc.dao.nrc.ca
    addresses: [127.0.0.1, 172.26.0.2]
    rotate: [server]
"""

RETURN = r"""
actions:
  description: What was done (in check mode, would be done), and why.
  returned: always
  type: list
  elements: dict
  sample: [{object: certificate, name: server, action: reissue, reasons: ["names changed: +DNS:a.example"]}]
ca:
  description: Subject, issuer, serial, names, end of validity and SHA-256 fingerprint of the CA.
  returned: always, in check mode without serial and fingerprint if it would be new
  type: dict
client_ca:
  description: The same of the CA of client certificates.
  returned: always, in check mode without serial and fingerprint if it would be new
  type: dict
server:
  description: The same of the server certificate.
  returned: always, in check mode without serial and fingerprint if it would be new
  type: dict
  sample:
    subject: CN=haproxy.cadc.dao.nrc.ca
    issuer: CN=Cavern CA 1f3a9c20,O=Cavern
    serial: 5a0c
    names: ["DNS:haproxy.cadc.dao.nrc.ca", "DNS:localhost", "IP:127.0.0.1"]
    not_after: "2027-12-25T10:00:00Z"
    fingerprint: "AB:CD"
"""

from ansible_collections.skasrc.cavern.plugins.module_utils import _certificates
from ansible_collections.skasrc.cavern.plugins.module_utils._phase import run_alone


def main() -> None:
    run_alone(_certificates.ARGUMENT_SPEC, _certificates.run)


if __name__ == "__main__":
    main()
