# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of the CAs of client certificates, and of their revocation lists. Private to the collection.

AUTHORITIES holds the present CA and, until trust in it ends, the one before; each has its key in a file of its own,
since each goes on revoking what it issued. REVOCATIONS holds a list of each.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils import _files, _x509

AUTHORITIES = "client-ca.pem"
KEY = "client-ca.key"
PREVIOUS_KEY = "client-ca-previous.key"
REVOCATIONS = "client-crl.pem"


@dataclass(frozen=True)
class ClientAuthorities:
    """CAs whose client certificates are accepted."""

    present: _x509.Pair
    previous: _x509.Pair | None = None

    def all(self) -> list[_x509.Pair]:
        """Return the CAs, the present one first."""
        return [self.present, *([self.previous] if self.previous else [])]

    def content(self) -> bytes:
        """Return the content of AUTHORITIES."""
        return b"".join(pair.certificate_pem for pair in self.all())


def read(directory: Path) -> ClientAuthorities:
    """Read the CAs in a directory. Raises ValueError if the present one is missing or broken."""
    certificates = _certificates(directory)
    present = _x509.load(certificates[0] if certificates else None, _files.read_bytes(directory / KEY))
    previous = former(directory, certificates[1:], [])
    return ClientAuthorities(present, previous)


def _certificates(directory: Path) -> list[bytes]:
    return [_x509.pem(found) for found in _x509.load_certificates(_files.read_bytes(directory / AUTHORITIES))]


def former(directory: Path, certificates: list[bytes] | None, keys: list[bytes]) -> _x509.Pair | None:
    """Return the first of *certificates* (those of the directory by default) whose key is found, with its key.

    Where a CA of both servers and clients was before there was one of clients alone, its key is among *keys*.
    """
    found = _certificates(directory) if certificates is None else certificates
    kept = (_files.read_bytes(directory / name) for name in (KEY, PREVIOUS_KEY))
    for key in (*kept, *keys):
        try:
            pair = _x509.load(found[0] if found else None, key)
        except ValueError:
            continue
        return None if _x509.ageing(pair.certificate, 0) else pair
    return None


def revocations(
    directory: Path, authorities: ClientAuthorities, further: Collection[tuple[str, int]] = ()
) -> bytes:
    """Return the content of REVOCATIONS with *further* revocations, by name of the issuer and serial number.

    A list without additions is kept as it is.
    """
    present = _x509.load_revocations(_files.read_bytes(directory / REVOCATIONS))
    lists: list[Any] = []
    for pair in authorities.all():
        crl = next((crl for crl in present if _x509.lists_for(crl, pair.certificate)), None)
        known = _x509.revoked_by(crl) if crl is not None else {}
        name = pair.certificate.subject.rfc4514_string()
        added = [serial for issuer, serial in further if issuer == name and serial not in known]
        if crl is None or added:
            crl = _x509.revocations(pair, dict.fromkeys(added, _x509.now()) | known)
        lists.append(crl)
    return b"".join(_x509.pem(crl) for crl in lists)


def is_revoked(directory: Path, ca: Any, serial: int) -> bool:
    """Whether a certificate of the CA was revoked."""
    lists = _x509.load_revocations(_files.read_bytes(directory / REVOCATIONS))
    return any(_x509.lists_for(crl, ca) and serial in _x509.revoked_by(crl) for crl in lists)
