# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of the certificate authorities and the server certificate. Private to the collection."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.skasrc.cavern.plugins.module_utils import (
    _client_ca,
    _files,
    _site_certificate,
    _x509,
)
from ansible_collections.skasrc.cavern.plugins.module_utils._certificate_files import CertificateDirectory
from ansible_collections.skasrc.cavern.plugins.module_utils._phase import PhaseError, Result

DNS_NAME = re.compile(
    r"(?=.{1,253}\Z)(\*\.)?[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*\Z", re.I
)

ARGUMENT_SPEC: dict[str, Any] = {
    "directory": {"type": "path", "required": True},
    "common_name": {"type": "str", "required": True},
    "server_cert": {"type": "path"},
    "server_key": {"type": "path", "no_log": False},
    "server_chain": {"type": "path"},
    "names": {"type": "list", "elements": "str", "default": ["localhost"]},
    "addresses": {"type": "list", "elements": "str", "default": ["127.0.0.1"]},
    "organization": {"type": "str", "default": "Cavern"},
    "key_type": {"type": "str", "choices": ["ec", "rsa"], "default": "ec", "no_log": False},
    "ca_days": {"type": "int", "default": 3650},
    "days": {"type": "int", "default": 397},
    "renew_days": {"type": "int", "default": 30},
    "host_bundle": {"type": "path", "default": "/etc/ssl/certs/ca-certificates.crt"},
    "authorities": {"type": "list", "elements": "path", "default": []},
    "rotate": {
        "type": "list",
        "elements": "str",
        "choices": ["ca", "server", "client-ca", "previous"],
        "default": [],
    },
}


class Certificates:
    """Compare the directory with what is wanted, issue missing or invalid certificates, and write what differs."""

    def __init__(self, module: AnsibleModule, options: dict[str, Any]) -> None:
        self.module = module
        self.options = options
        self.directory = Path(self.options["directory"])
        self.names = _x509.Names(
            self.options["common_name"], tuple(self.options["names"]), tuple(self.options["addresses"])
        )
        self.files = CertificateDirectory(module, self.directory, options["rotate"])
        self.authorities = [
            certificate
            for name in options["authorities"]
            for certificate in _site_certificate.read_certificates("authorities", name)
        ]

    def converge(self) -> dict[str, Any]:
        """Bring the directory to the wanted state and return the module's result."""
        self.files.create()
        before = self.files.load("ca")
        site = _site_certificate.read(self.options)
        # All is issued before anything is written.
        write: Callable[[], dict[str, Any]]
        if site is None:
            write = partial(self._write_own, before, *self._issue_own())
        else:
            write = partial(self._write_site, site)
        clients, new_clients = self._clients(before)
        facts = write()
        self._write_clients(clients, new_clients)
        if site is not None:
            # Last, since it may have been that of clients too.
            self.files.remove("ca.key", "the server certificate is the site's")
        return {
            "changed": bool(self.files.actions),
            "actions": self.files.actions,
            **facts,
            "client_ca": self.files.facts(clients.present.certificate, new_clients),
            "diff": self.files.diffs,
        }

    def _issue_own(self) -> tuple[_x509.Pair, bool, _x509.Pair, bool]:
        """Return the deployment's own CA and its server certificate, each with whether it is new."""
        ca, new_ca = self._authority()
        return (ca, new_ca, *self._server(ca))

    def _write_own(
        self, before: _x509.Pair | None, ca: _x509.Pair, new_ca: bool, server: _x509.Pair, new_server: bool
    ) -> dict[str, Any]:
        """Write the deployment's own CA and its server certificate, and return their properties."""
        self._write(ca, server, new_ca, new_server, self._previous(before, ca))
        return {
            "ca": self.files.facts(ca.certificate, new_ca),
            "server": self.files.facts(server.certificate, new_server),
        }

    def _write_site(self, site: _site_certificate.SiteCertificate) -> dict[str, Any]:
        """Install the site's server certificate, with its root as the CA that clients trust."""
        ageing = _x509.ageing(site.pair.certificate, self.options["renew_days"])
        if ageing:
            self.module.warn(f"server_cert: {self.options['server_cert']} {ageing}; have it renewed")
        # Clients that know what was trusted before go on until that ends.
        trusted = self.files.certificates("ca.pem")
        if trusted[:1] == [site.anchor]:
            trusted = self.files.certificates("ca-previous.pem")
        previous = self._still_trusted(trusted[:1])
        self._previous_file(previous)
        self.files.installed("ca", site.anchor)
        self.files.installed("server", site.pair.certificate)
        self.files.derive("server.key", site.pair.key_pem, 0o600, "server_key")
        self.files.write("server.pem", site.pair.certificate_pem, 0o644)
        self.files.write("ca.pem", _x509.pem(site.anchor), 0o644)
        chain = b"".join(_x509.pem(certificate) for certificate in site.intermediates)
        self._derived_files(site.pair.certificate_pem + chain + site.pair.key_pem, [site.anchor, *previous])
        return {
            "ca": self.files.facts(site.anchor, False),
            "server": self.files.facts(site.pair.certificate, False),
        }

    def _authority(self) -> tuple[_x509.Pair, bool]:
        def reason_to_issue(pair: _x509.Pair) -> str | None:
            return _x509.ca_reason(pair, self.options["renew_days"], self.options["key_type"])

        def issue() -> _x509.Pair:
            return _x509.create_ca(
                self.options["organization"], self.options["ca_days"], self.options["key_type"]
            )

        return self.files.pair("ca", reason_to_issue, issue)

    def _server(self, ca: _x509.Pair) -> tuple[_x509.Pair, bool]:
        def reason_to_issue(pair: _x509.Pair) -> str | None:
            return _x509.server_reason(
                pair, ca, self.names, self.options["renew_days"], self.options["key_type"]
            )

        def issue() -> _x509.Pair:
            return _x509.issue_server(ca, self.names, self.options["days"], self.options["key_type"])

        return self.files.pair("server", reason_to_issue, issue)

    def _clients(self, before: _x509.Pair | None) -> tuple[_client_ca.ClientAuthorities, bool]:
        """Return the CAs of client certificates: the present one and, while it is trusted, the one before."""
        present = None
        try:
            present = _client_ca.read(self.directory)
            reason = (
                "rotation was requested"
                if "client-ca" in self.options["rotate"]
                else _x509.ca_reason(present.present, self.options["renew_days"], self.options["key_type"])
            )
        except ValueError as error:
            reason = str(error)
        if present is not None and reason is None:
            if "previous" in self.options["rotate"]:
                present = _client_ca.ClientAuthorities(present.present)
            return present, False
        # Once the CA of servers issued client certificates too.
        previous = _client_ca.former(self.directory, None, [before.key_pem] if before else [])
        pair = _x509.create_client_ca(
            self.options["organization"], self.options["ca_days"], self.options["key_type"]
        )
        self.files.issued("client-ca", present.present if present else None, pair, str(reason))
        if "previous" in self.options["rotate"]:
            previous = None
        return _client_ca.ClientAuthorities(pair, previous), True

    def _write_clients(self, clients: _client_ca.ClientAuthorities, new: bool) -> None:
        # First, or an interruption would lose it.
        self._former_key(clients.previous)
        self.files.write(_client_ca.KEY, clients.present.key_pem if new else None, 0o600)
        lists = _client_ca.revocations(self.directory, clients)
        self.files.derive(_client_ca.REVOCATIONS, lists, 0o644, "the CA of clients")
        if new:
            self.files.write(_client_ca.AUTHORITIES, clients.content(), 0o644)
        else:
            self.files.derive(_client_ca.AUTHORITIES, clients.content(), 0o644, "the CA of clients")

    def _former_key(self, previous: _x509.Pair | None) -> None:
        path = self.directory / _client_ca.PREVIOUS_KEY
        if previous is not None:
            self.files.derive(path.name, previous.key_pem, 0o600, "the CA of clients")
        else:
            self.files.remove(path.name, "its CA ended, or is no longer trusted")

    def _previous(self, before: _x509.Pair | None, ca: _x509.Pair) -> list[Any]:
        """Return the CA before the present one, and the present one cross-signed by it, while it is trusted."""
        if before and before.certificate != ca.certificate:
            previous = [before.certificate, _x509.cross_sign(ca, before)]
        else:
            previous = self.files.certificates("ca-previous.pem")
        return self._still_trusted(previous)

    def _still_trusted(self, previous: list[Any]) -> list[Any]:
        ended = not previous or _x509.ageing(previous[0], 0)
        return [] if ended or "previous" in self.options["rotate"] else previous

    def _write(
        self, ca: _x509.Pair, server: _x509.Pair, new_ca: bool, new_server: bool, previous: list[Any]
    ) -> None:
        """Write every file; a key always before its certificate."""
        # First of all, or an interruption would lose it.
        self._previous_file(previous)
        self.files.write("ca.key", ca.key_pem if new_ca else None, 0o600)
        self.files.write("ca.pem", ca.certificate_pem if new_ca else None, 0o644)
        self.files.write("server.key", server.key_pem if new_server else None, 0o600)
        self.files.write("server.pem", server.certificate_pem if new_server else None, 0o644)
        chain = server.certificate_pem + b"".join(_x509.pem(certificate) for certificate in previous[1:])
        self._derived_files(chain + server.key_pem, [ca.certificate, *previous[:1]])

    def _derived_files(self, served: bytes, trusted: list[Any]) -> None:
        """Write what HAProxy serves, and what its clients trust, of which the present CA is the first."""
        self.files.derive("haproxy.pem", served, 0o600, "the server certificate")
        further = b"".join(_x509.pem(certificate) for certificate in self.authorities)
        self.files.derive("authorities.pem", _x509.pem(trusted[0]) + further, 0o644, "the CA or authorities")
        ours = b"".join(_x509.pem(certificate) for certificate in trusted)
        self.files.derive("ca-bundle.pem", self._bundle(further + ours), 0o644, "the host's CAs or ours")
        self._trust_store(trusted[0])

    def _previous_file(self, previous: list[Any]) -> None:
        if previous:
            content = b"".join(_x509.pem(certificate) for certificate in previous)
            self.files.derive("ca-previous.pem", content, 0o644, "the CA")
        else:
            self.files.remove("ca-previous.pem", "it ended, or is no longer trusted")

    def _bundle(self, authorities: bytes) -> bytes:
        bundle = _files.read_bytes(Path(self.options["host_bundle"]))
        if bundle is None:
            self.module.warn(
                f"{self.options['host_bundle']} does not exist: ca-bundle.pem holds no public CA"
            )
            return authorities
        return bundle.rstrip(b"\n") + b"\n" + authorities

    def _trust_store(self, ca: Any) -> None:
        # Its bytes differ each time it is made, so that its content decides.
        if _x509.trust_store_holds(self.files.read("truststore.p12"), ca):
            self.files.write("truststore.p12", None, 0o644)
            return
        content = _x509.trust_store(ca)
        if content is None:
            self.module.warn(
                "truststore.p12 is not made: it needs the Python package cryptography 45 or newer on the host"
            )
        else:
            self.files.derive("truststore.p12", content, 0o644, "the CA")


def check_options(options: dict[str, Any]) -> None:
    """Refuse names, addresses and periods that would result in an unusable certificate."""
    for option, names in (("common_name", [options["common_name"]]), ("names", options["names"])):
        for name in names:
            if not DNS_NAME.match(name):
                raise PhaseError(f"{option}: {name!r} is not a DNS name")
    if len(options["common_name"]) > 64:
        raise PhaseError("common_name: a certificate's common name has at most 64 characters")
    for address in options["addresses"]:
        try:
            ipaddress.ip_address(address)
        except ValueError as error:
            raise PhaseError(f"addresses: {address!r} is not an IP address") from error
    _site_certificate.check_options(options)
    if options["renew_days"] < 0:
        raise PhaseError("renew_days: must not be negative")
    for option in ("days", "ca_days"):
        if options[option] <= options["renew_days"]:
            raise PhaseError(
                f"{option}: {options[option]} must be more than renew_days ({options['renew_days']}), "
                "or each run would issue a new certificate"
            )


def renewed(options: dict[str, Any], actions: list[dict[str, Any]]) -> frozenset[str]:
    """Return the paths of the files whose content the actions change."""
    suffix = {"certificate": ".pem", "file": ""}
    return frozenset(
        f"{options['directory']}/{action['name']}{suffix[action['object']]}"
        for action in actions
        if action["object"] in suffix and action["action"] in ("create", "reissue", "update")
    )


def run(module: AnsibleModule, options: dict[str, Any]) -> Result:
    """Bring the directory to the wanted state."""
    check_options(options)
    if _x509.CRYPTOGRAPHY_ERROR and module.check_mode:
        # A bare machine: the same run would have installed the library.
        actions = [
            {"object": "certificate", "name": name, "action": "create", "reasons": ["missing"]}
            for name in ("ca", "server", "client-ca")
        ]
        return {"changed": True, "actions": actions, "diff": [], "ca": {}, "server": {}, "client_ca": {}}
    if _x509.CRYPTOGRAPHY_ERROR:
        raise PhaseError(missing_required_lib("cryptography >= 38"), exception=_x509.CRYPTOGRAPHY_ERROR)
    certificates = Certificates(module, options)
    try:
        return certificates.converge()
    except OSError as error:
        raise PhaseError(
            f"Certificates in {options['directory']}: {error}", actions=certificates.files.actions
        ) from error
