"""What ``sudo update-ca-trust`` does to the certificates that Java trusts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cryptography import x509

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


def is_authority(pem: bytes) -> bool:
    """Whether the certificate may sign others; those that may not never become anchors."""
    try:
        constraints = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(
            x509.BasicConstraints
        )
    except (ValueError, x509.ExtensionNotFound):
        return False
    return constraints.value.ca


def main() -> None:
    """Renew the bundle, if this user may."""
    if os.getuid() != 0 and not sudo_works():
        sys.exit("sudo: cannot become root in this container")
    anchors = [path.read_bytes() for path in sorted(ANCHORS.iterdir())]
    BUNDLE.write_bytes(b"".join(pem for pem in anchors if is_authority(pem)))


if __name__ == "__main__":
    main()
