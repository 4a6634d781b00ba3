"""What ``sudo update-ca-trust`` does to the certificates that Java trusts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

ANCHORS = Path("/etc/pki/ca-trust/source/anchors")
BUNDLE = Path("/etc/pki/java/cacerts.pem")
SETGID, SETUID = 6, 7


def sudo_works() -> bool:
    """Whether the process could become root at all."""
    status = dict(
        line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line
    )
    bounds = int(status["CapBnd"], 16)
    return status["NoNewPrivs"].strip() == "0" and bool(bounds >> SETUID & 1 and bounds >> SETGID & 1)


def authorities(pem: bytes) -> bytes:
    """Return the certificates of a file that may sign others; those that may not never become anchors."""
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError:
        return b""
    return b"".join(item.public_bytes(Encoding.PEM) for item in found if is_authority(item))


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether a certificate may sign others."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def main() -> None:
    """Renew the bundle, if this user may."""
    if os.getuid() != 0 and not sudo_works():
        sys.exit("sudo: cannot become root in this container")
    BUNDLE.write_bytes(b"".join(authorities(path.read_bytes()) for path in sorted(ANCHORS.iterdir())))


if __name__ == "__main__":
    main()
