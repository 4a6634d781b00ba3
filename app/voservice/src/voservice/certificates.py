"""Verification of client certificates (RFC 5280, as far as the deployment's CAs use it).

The proxy has verified the certificate, and that the client has its key. The service verifies the certificate itself as
well, in case the proxy was tricked into forwarding one.
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
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from voservice.auth.errors import AuthenticationError, IssuerUnavailable

UNDERSTOOD = (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage, x509.SubjectAlternativeName)
"""Extensions of a certificate that may be critical."""

DIGEST_SIZE = 32

logger = logging.getLogger(__name__)

T = TypeVar("T")
E = TypeVar("E", bound=x509.ExtensionType)


class Unacceptable(AuthenticationError):
    """The certificate is invalid."""

    def __init__(self, reason: str) -> None:
        """Keep the reason."""
        super().__init__(f"The client certificate {reason}")


@dataclass
class _Watched(Generic[T]):
    """The content of a file, read again when another file has replaced it."""

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


def _revocation_lists(content: bytes) -> list[x509.CertificateRevocationList]:
    end = b"-----END X509 CRL-----"
    return [x509.load_pem_x509_crl(part + end) for part in content.split(end)[:-1]]


class ClientCertificates:
    """Verifies certificates against a file of CAs and one of revocation lists, which may change at any time."""

    def __init__(self, authorities: Path, revocations: Path) -> None:
        """Trust the CAs in *authorities*, each of which has a list in *revocations*."""
        self._authorities = _Watched(authorities, x509.load_pem_x509_certificates)
        self._revocations = _Watched(revocations, _revocation_lists)

    def verify(self, certificate: x509.Certificate, now: datetime | None = None) -> None:
        """Raise an ``AuthenticationError`` unless the certificate is valid *now*."""
        now = now or datetime.now(UTC)
        try:
            authorities, revocations = self._authorities.value(), self._revocations.value()
        except (OSError, ValueError) as exc:
            raise _unverifiable(str(exc)) from exc
        try:
            authority = _issuer(certificate, authorities)
            _check_validity(authority, now, "was issued by an authority that ")
            _check_validity(certificate, now)
            _check_authority(authority, certificate)
            _check_purpose(certificate)
        except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as exc:
            raise Unacceptable("cannot be read") from exc
        revoked = next((found for found in revocations if _is_of(found, authority, now)), None)
        if revoked is None:
            raise _unverifiable(f"{authority.subject.rfc4514_string()} has no valid revocation list")
        if revoked.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
            raise Unacceptable("was revoked")


def _unverifiable(reason: str) -> AuthenticationError:
    """Reject the certificate because it cannot be verified; log the reason without telling the client."""
    logger.error("no client certificate can be verified: %s", reason)
    return IssuerUnavailable("The client certificate cannot be verified at present")


def _is_of(revocations: x509.CertificateRevocationList, authority: x509.Certificate, now: datetime) -> bool:
    """Return whether a list is signed by the CA and not out of date."""
    end = revocations.next_update_utc
    key = authority.public_key()
    return (
        revocations.issuer == authority.subject
        and (end is None or now <= end)
        and isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey)
        and revocations.is_signature_valid(key)
    )


def _issuer(certificate: x509.Certificate, authorities: list[x509.Certificate]) -> x509.Certificate:
    """Return the CA that signed the certificate."""
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
    """Raise Unacceptable unless the CA may issue such a certificate."""
    constraints = _extension(authority, x509.BasicConstraints)
    usage = _extension(authority, x509.KeyUsage)
    purposes = _extension(authority, x509.ExtendedKeyUsage)
    if constraints is None or not constraints.ca or (usage is not None and not usage.key_cert_sign):
        raise Unacceptable("was issued by a certificate that is not a CA's")
    if purposes is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        raise Unacceptable("was issued by a CA for other purposes")
    names = _extension(authority, x509.NameConstraints)
    subtrees = (names.permitted_subtrees or []) if names else []
    permitted = [name.value for name in subtrees if isinstance(name, x509.DirectoryName)]
    if permitted and not any(_is_below(certificate.subject, name) for name in permitted):
        raise Unacceptable("has a subject outside the name constraints of its CA")


def _is_below(subject: x509.Name, name: x509.Name) -> bool:
    return subject.rdns[: len(name.rdns)] == name.rdns


def _check_purpose(certificate: x509.Certificate) -> None:
    """Raise Unacceptable unless the certificate is for client authentication."""
    for extension in certificate.extensions:
        if extension.critical and not isinstance(extension.value, UNDERSTOOD):
            raise Unacceptable(
                f"has a critical extension that is not understood: {extension.oid.dotted_string}"
            )
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise Unacceptable("is a CA's")
    usage = _extension(certificate, x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        raise Unacceptable("is not for signatures")
    purposes = _extension(certificate, x509.ExtendedKeyUsage)
    if purposes is None or ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        raise Unacceptable("is not for clients")
