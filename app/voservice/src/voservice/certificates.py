"""Whether a client certificate proves who its holder is (RFC 5280, as far as the deployment's authorities use it).

The proxy has verified it, and that its sender has the key. This is the service's own judgement: a certificate that the
proxy was made to hand on proves nothing by that.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID

from voservice.auth.errors import AuthenticationError, IssuerUnavailable

UNDERSTOOD = (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage, x509.SubjectAlternativeName)
"""Extensions of a certificate that may be critical."""

DIGEST_SIZE = 32

logger = logging.getLogger(__name__)

T = TypeVar("T")
E = TypeVar("E", bound=x509.ExtensionType)


class Unacceptable(AuthenticationError):
    """The certificate proves nothing."""

    def __init__(self, reason: str) -> None:
        """Say why."""
        super().__init__(f"The client certificate {reason}")


@dataclass
class _Watched(Generic[T]):
    """What a file says, read anew when another has taken its place."""

    path: Path
    read: Callable[[bytes], T]
    _seen: tuple[int, int, int] | None = field(default=None, init=False)
    _value: T | None = field(default=None, init=False)

    def value(self) -> T:
        with self.path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if self._value is None or seen != self._seen:
                self._value, self._seen = self.read(stream.read()), seen
            return self._value


class ClientCertificates:
    """Judges certificates by the authorities of a file, which may change at any time."""

    def __init__(self, authorities: Path) -> None:
        """Believe those whose certificates are in *authorities*."""
        self._authorities = _Watched(authorities, x509.load_pem_x509_certificates)

    def verify(self, certificate: x509.Certificate, now: datetime | None = None) -> None:
        """Raise an ``AuthenticationError`` unless the certificate is good *now*."""
        try:
            authorities = self._authorities.value()
        except (OSError, ValueError) as exc:
            logger.error("%s: no client certificate can be verified: %s", self._authorities.path, exc)
            raise IssuerUnavailable("The client certificate cannot be verified at present") from exc
        try:
            _verify(certificate, authorities, now or datetime.now(UTC))
        except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as exc:
            raise Unacceptable("cannot be read") from exc


def _verify(certificate: x509.Certificate, authorities: list[x509.Certificate], now: datetime) -> None:
    authority = _issuer(certificate, authorities)
    _check_validity(authority, now, "was issued by an authority that ")
    _check_validity(certificate, now)
    _check_authority(authority, certificate)
    _check_purpose(certificate)


def _issuer(certificate: x509.Certificate, authorities: list[x509.Certificate]) -> x509.Certificate:
    """The authority whose signature the certificate bears."""
    digest = certificate.signature_hash_algorithm
    if digest is None or digest.digest_size < DIGEST_SIZE:
        raise Unacceptable("is signed with a weak digest")
    for authority in authorities:
        try:
            certificate.verify_directly_issued_by(authority)
        except (InvalidSignature, ValueError, TypeError):
            continue
        return authority
    raise Unacceptable("was not issued by this deployment")


def _check_validity(certificate: x509.Certificate, now: datetime, which: str = "") -> None:
    if now < certificate.not_valid_before_utc:
        raise Unacceptable(f"{which}is not valid yet")
    if now > certificate.not_valid_after_utc:
        raise Unacceptable(f"{which}has expired")


def _extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _check_authority(authority: x509.Certificate, certificate: x509.Certificate) -> None:
    """Whether the authority may issue such a certificate."""
    constraints = _extension(authority, x509.BasicConstraints)
    usage = _extension(authority, x509.KeyUsage)
    purposes = _extension(authority, x509.ExtendedKeyUsage)
    if constraints is None or not constraints.ca or (usage is not None and not usage.key_cert_sign):
        raise Unacceptable("was issued by a certificate that is no authority's")
    if purposes is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        raise Unacceptable("was issued by an authority for other purposes")
    names = _extension(authority, x509.NameConstraints)
    subtrees = (names.permitted_subtrees or []) if names else []
    permitted = [name.value for name in subtrees if isinstance(name, x509.DirectoryName)]
    if permitted and not any(_is_below(certificate.subject, name) for name in permitted):
        raise Unacceptable("has a subject that its authority may not name")


def _is_below(subject: x509.Name, name: x509.Name) -> bool:
    return subject.rdns[: len(name.rdns)] == name.rdns


def _check_purpose(certificate: x509.Certificate) -> None:
    """Whether the certificate is one that a client proves itself with."""
    for extension in certificate.extensions:
        if extension.critical and not isinstance(extension.value, UNDERSTOOD):
            raise Unacceptable(
                f"has a critical extension that is not understood: {extension.oid.dotted_string}"
            )
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise Unacceptable("is an authority's")
    usage = _extension(certificate, x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        raise Unacceptable("is not for signatures")
    purposes = _extension(certificate, x509.ExtendedKeyUsage)
    if purposes is None or ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        raise Unacceptable("is not for clients")
