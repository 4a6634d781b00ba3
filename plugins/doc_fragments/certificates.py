# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""CAs and server certificate: options of the module certificates, and of converge below the option of that name."""

from __future__ import annotations

from ansible_collections.skasrc.cavern.plugins.plugin_utils._nested import nested_fragment


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  directory:
    description:
      - >-
        Where the files go: C(ca.pem), C(ca.key), C(server.pem), C(server.key), C(haproxy.pem) (certificate
        chain and key), C(ca-bundle.pem) (the host's public CAs, O(authorities) and ours), C(authorities.pem) (our CA
        and O(authorities), for services that know the public ones), C(truststore.p12) (our CA for Java, password
        C(changeit)) and, after the CA was replaced, C(ca-previous.pem) (the CA before, and the
        present one certified by it).
      - >-
        For clients C(client-ca.pem) (the CA of client certificates and, while it is to be trusted, the one
        before), C(client-ca.key), C(client-ca-previous.key) and C(client-crl.pem) (what each has revoked).
      - Created if missing.
    type: path
    required: true
  common_name:
    description: The public name. It is the subject of the server certificate and its first alternative name.
    type: str
    required: true
  server_cert:
    description:
      - A server certificate that another authority has issued for O(common_name), as PEM on this host, with
        the certificates between it and the root after it or in O(server_chain). Without it the module issues one.
      - It is refused when it has ended, is for another name, does not belong to O(server_key), or leads to no root that
        O(server_chain) or O(host_bundle) holds. Renewing it is the authority's client's business; the next run takes
        up what lies there then.
      - C(ca.pem) is then the root, and C(ca.key) is removed. O(names), O(addresses), O(key_type), O(ca_days) and
        O(days) have no bearing on the server certificate.
    type: path
  server_key:
    description: The private key of O(server_cert), as PEM without a passphrase.
    type: path
  server_chain:
    description:
      - The authorities above O(server_cert), as PEM in any order. The root has to be among them where O(host_bundle)
        does not hold it; services and clients then trust it.
    type: path
  names:
    description: Further DNS names of the server certificate.
    type: list
    elements: str
    default: [localhost]
  addresses:
    description: IP addresses of the server certificate.
    type: list
    elements: str
    default: [127.0.0.1]
  organization:
    description: Organization in the CA's subject, so that people can tell the CAs in their trust store apart.
    type: str
    default: Cavern
  key_type:
    description:
      - V(ec) is ECDSA with P-256, V(rsa) is RSA with 3072 bits.
      - Changing it replaces the CA as well.
    type: str
    choices: [ec, rsa]
    default: ec
  ca_days:
    description: Days that a new CA is valid.
    type: int
    default: 3650
  days:
    description: Days that a new server certificate is valid. It never outlives the CA.
    type: int
    default: 397
  renew_days:
    description: A certificate that ends within this many days is replaced.
    type: int
    default: 30
  host_bundle:
    description:
      - File with the public CAs that C(ca-bundle.pem) starts with.
      - If there is none, C(ca-bundle.pem) holds no public CA, and a warning says so.
    type: path
    default: /etc/ssl/certs/ca-certificates.crt
  authorities:
    description: PEM files on this host with further CAs for C(ca-bundle.pem), such as that of an issuer of tokens.
    type: list
    elements: path
    default: []
  rotate:
    description:
      - What to replace even though it still serves.
      - V(ca) replaces the server certificate too, since the new CA has to sign it.
      - V(client-ca) replaces the CA of client certificates. Those of the one before are accepted until it ends.
      - V(previous) issues nothing, but ends the trust in the CAs before the present ones, as is due when a key
        of theirs became known to others.
    type: list
    elements: str
    choices: [ca, server, client-ca, previous]
    default: []
"""

    # Annotated, since ansible-test takes what a plain assignment has for a text.
    NESTED: str = nested_fragment("certificates", DOCUMENTATION)
