# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A server certificate that an authority of the site's own, or a public one, has issued. Private to the collection."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils import _files, _x509
from ansible_collections.skasrc.cavern.plugins.module_utils._phase import PhaseError

OPTIONS = ("server_cert", "server_key", "server_chain")


@dataclass(frozen=True)
class SiteCertificate:
    """A server certificate with the chain that leads to its trust anchor.

    `intermediates` are sent along, from the issuer of the certificate upwards; `anchor` is what clients have to trust.
    """

    pair: _x509.Pair
    intermediates: tuple[Any, ...]
    anchor: Any


def check_options(options: dict[str, Any]) -> None:
    """Refuse a certificate without its key and the other way round."""
    given = {option for option in OPTIONS if options[option]}
    for option, other in (("server_cert", "server_key"), ("server_key", "server_cert")):
        if option in given and other not in given:
            raise PhaseError(f"{other}: must be given together with {option}")
    if "server_chain" in given and "server_cert" not in given:
        raise PhaseError("server_chain: needs server_cert and server_key")
    unwanted = {"ca", "server"}.intersection(options["rotate"])
    if given and unwanted:
        raise PhaseError(
            f"rotate: {', '.join(sorted(unwanted))} cannot be replaced here while server_cert is given; "
            "have its authority issue another and put that into its place"
        )


def read(options: dict[str, Any]) -> SiteCertificate | None:
    """Return the site's certificate as the options name it, None if they name none.

    Raises PhaseError, which names the option, where a server with it would be refused by its clients: unreadable, not
    the key's, ended or not valid yet, not for the public name, not for servers, or signed by nobody that is known.
    """
    if not options["server_cert"]:
        return None
    certificates = read_certificates("server_cert", options["server_cert"])
    leaf = certificates[0]
    key_pem = _content("server_key", options["server_key"])
    try:
        pair = _x509.load(_x509.pem(leaf), key_pem)
    except ValueError as error:
        raise PhaseError(f"server_key: {options['server_key']}: {error}") from error
    _check_use(options, leaf)
    chain = read_certificates("server_chain", options["server_chain"]) if options["server_chain"] else []
    path = _path(options, leaf, certificates[1:] + chain)
    for certificate in (leaf, *path):
        _check_validity(options, certificate)
    return SiteCertificate(pair, tuple(path[:-1]), path[-1])


def _content(option: str, name: str) -> bytes:
    path = Path(name)
    try:
        content = _files.read_bytes(path)
    except OSError as error:
        raise PhaseError(f"{option}: {path} cannot be read ({error.strerror})") from error
    if content is None:
        raise PhaseError(f"{option}: {path} does not exist on this host")
    return content


def read_certificates(option: str, name: str) -> list[Any]:
    """Return the certificates of the PEM file *name*. Raises PhaseError, which names the option, if there is none."""
    # Authorities write comments between certificates, and editors of other systems other ends of lines.
    found = re.findall(
        rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", _content(option, name), re.DOTALL
    )
    certificates = _x509.load_certificates(b"".join(part.replace(b"\r\n", b"\n") + b"\n" for part in found))
    if not certificates:
        raise PhaseError(f"{option}: {name} holds no readable PEM certificate")
    return certificates


def _check_use(options: dict[str, Any], leaf: Any) -> None:
    name = options["common_name"]
    names = _x509.alternatives_of(leaf)
    if not any(_covers(alternative, name) for alternative in names):
        issued_for = ", ".join(names) or "no subject alternative name at all"
        raise PhaseError(
            f"server_cert: {options['server_cert']} is not for the public name {name}, but for {issued_for}"
        )
    if _x509.is_authority(leaf):
        raise PhaseError(
            f"server_cert: {options['server_cert']} begins with a CA's certificate; the server's own must come first"
        )
    if not _x509.serves_servers(leaf):
        raise PhaseError(
            f"server_cert: {options['server_cert']} is not for servers (extended key usage without serverAuth)"
        )


def _covers(alternative: str, name: str) -> bool:
    """Whether a subject alternative name is good for a host name (RFC 6125 section 6.4)."""
    kind, _colon, value = alternative.partition(":")
    if kind != "DNS":
        return False
    value, name = value.lower(), name.lower()
    if value.startswith("*."):
        return name.partition(".")[2] == value[2:]
    return value == name


def _path(options: dict[str, Any], leaf: Any, pool: list[Any]) -> list[Any]:
    """Return the certificates from the issuer of `leaf` up to a self-signed one, of `pool` or of the host's bundle."""
    known = _x509.load_readable(_files.read_bytes(Path(options["host_bundle"])))
    # An authority may have a certificate that has ended beside a later one for the same key.
    candidates = sorted([*known, *pool], key=lambda certificate: _x509.ageing(certificate, 0) is not None)
    path: list[Any] = []
    below = leaf
    while not (path and _x509.is_signed_by(below, below)):
        above = next(
            (
                certificate
                for certificate in candidates
                if certificate not in path and _x509.is_signed_by(below, certificate)
            ),
            None,
        )
        if above is None:
            raise PhaseError(
                f"server_chain: nothing in {options['server_chain'] or options['server_cert']} or "
                f"{options['host_bundle']} has signed {below.subject.rfc4514_string()}; its issuer "
                f"{below.issuer.rfc4514_string()} has to be added, and those above it up to the root"
            )
        if above != leaf and not _x509.is_authority(above):
            raise PhaseError(
                f"server_chain: {above.subject.rfc4514_string()} has signed {below.subject.rfc4514_string()}, "
                "but is no CA: clients would refuse the chain"
            )
        path.append(above)
        below = above
    return path


def _check_validity(options: dict[str, Any], certificate: Any) -> None:
    subject = certificate.subject.rfc4514_string()
    ended = _x509.ageing(certificate, 0)
    if ended:
        raise PhaseError(f"server_cert: {options['server_cert']}: {subject} {ended}; have it renewed")
    if _x509.not_before(certificate) > _x509.now():
        raise PhaseError(
            f"server_cert: {options['server_cert']}: {subject} is not valid before "
            f"{_x509.not_before(certificate):%Y-%m-%d %H:%M} UTC; mind this host's clock"
        )
