#!/usr/bin/python
# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: certificates
short_description: Issue and renew the certificate authorities and server certificate of a deployment
version_added: 0.1.0
description:
  - Creates a certificate authority (CA) for the deployment, a server certificate for the public name, and another CA
    for client certificates with its revocation list; derives from them the files that services and clients read.
  - A certificate is reissued when it is missing, damaged, about to expire, not signed by the present CA, or for other
    names than wanted. Otherwise it is left as it is.
  - When the CA is replaced, the former one stays trusted until it expires, and cross-signs the new one, so that
    services and clients that know only one of the two continue to work.
  - The CA of clients can certify only names of the O(organization), and no machine. When it is replaced, the
    certificates of the former one are accepted until that expires. Where an earlier version of this module let the CA
    of servers issue client certificates too, that CA counts as the former one.
  - Each file is replaced atomically. Keys have mode V(0600), and never appear in results or diffs.
author:
  - Cavern deployment team (@skasrc)
extends_documentation_fragment: [skasrc.cavern.certificates]
requirements:
  - cryptography >= 38
  - cryptography >= 45 for C(truststore.p12), which is left out with a warning otherwise
attributes:
  check_mode:
    support: full
    description: Reports what would be issued and why, without writing.
  diff_mode:
    support: full
    description: Shows subjects, names, dates and fingerprints. Keys are never shown.
"""

EXAMPLES = r"""
- name: Issue certificates for the public name
  skasrc.cavern.certificates:
    directory: /srv/cavern/state/certs
    common_name: haproxy.cadc.dao.nrc.ca
    addresses: [127.0.0.1, 172.26.0.2]

- name: Replace the server certificate at once
  skasrc.cavern.certificates:
    directory: /srv/cavern/state/certs
    common_name: haproxy.cadc.dao.nrc.ca
    addresses: [127.0.0.1, 172.26.0.2]
    rotate: [server]
"""

RETURN = r"""
actions:
  description: Actions taken (in check mode, that would be taken), with reasons.
  returned: always
  type: list
  elements: dict
  sample: [{object: certificate, name: server, action: reissue, reasons: ["names changed: +DNS:a.example"]}]
ca:
  description: Subject, issuer, serial, names, end of validity and SHA-256 fingerprint of the CA.
  returned: always, in check mode without serial and fingerprint if it would be new
  type: dict
client_ca:
  description: The same for the CA of client certificates.
  returned: always, in check mode without serial and fingerprint if it would be new
  type: dict
server:
  description: The same for the server certificate.
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
