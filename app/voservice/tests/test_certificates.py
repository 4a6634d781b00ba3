"""Which client certificates prove who their holder is."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier
from voservice.auth import AuthenticationError, IssuerUnavailable
from voservice.certificates import ClientCertificates

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
CLIENT = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
SERVER = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
UNKNOWN = x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")


def name(common_name: str, organization: str = "") -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(parts)


def usage(**used: bool) -> x509.KeyUsage:
    flags = dict.fromkeys(
        [
            *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
            *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
        ],
        False,
    )
    return x509.KeyUsage(**(flags | used))


class Authority:
    """An authority and what it issues, well or badly."""

    def __init__(self, *extensions: tuple[x509.ExtensionType, bool], **options: Any) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = options.pop("name", name("Users", "project"))
        extensions = extensions or (
            (x509.BasicConstraints(ca=True, path_length=0), True),
            (usage(key_cert_sign=True, crl_sign=True), True),
        )
        self.certificate = self.sign(self.name, self.key, extensions, **options)

    def sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extensions: Any, **options: Any
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(options.get("issuer", self.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(options.get("begin", NOW - DAY))
            .not_valid_after(options.get("end", NOW + DAY))
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, options.get("digest", hashes.SHA256()))

    def revoked(
        self, *certificates: x509.Certificate, end: datetime = NOW + DAY
    ) -> x509.CertificateRevocationList:
        """The list of what it has revoked."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.name)
            .last_update(NOW - DAY)
            .next_update(end)
        )
        for certificate in certificates:
            entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(NOW).build())
        return builder.sign(self.key, hashes.SHA256())

    def issue(
        self, subject: x509.Name | None = None, *further: x509.ExtensionType, **options: Any
    ) -> x509.Certificate:
        extensions = options.pop(
            "extensions",
            (
                (x509.BasicConstraints(ca=False, path_length=None), True),
                (usage(digital_signature=True), True),
                (CLIENT, False),
            ),
        )
        key = ec.generate_private_key(ec.SECP256R1())
        extensions = [*extensions, *((extension, True) for extension in further)]
        return self.sign(subject or name("ada", "project"), key, extensions, **options)


@pytest.fixture
def verifier(tmp_path: Path) -> Callable[..., ClientCertificates]:
    """Who believes these authorities, each of which has revoked nothing."""

    def make(*authorities: Authority) -> ClientCertificates:
        put(tmp_path / "authorities.pem", *(authority.certificate for authority in authorities))
        put(tmp_path / "revocations.pem", *(authority.revoked() for authority in authorities))
        return ClientCertificates(tmp_path / "authorities.pem", tmp_path / "revocations.pem")

    return make


def put(path: Path, *content: x509.Certificate | x509.CertificateRevocationList) -> None:
    """Replace a file in one step, as those of a deployment are replaced."""
    new = path.with_suffix(".new")
    new.write_bytes(b"".join(part.public_bytes(Encoding.PEM) for part in content))
    os.replace(new, path)


def test_a_certificate_of_any_of_the_authorities_is_good(verifier: Callable[..., ClientCertificates]) -> None:
    first, second = Authority(), Authority()
    certificates = verifier(first, second)
    certificates.verify(first.issue())
    certificates.verify(second.issue())
    certificates.verify(second.issue(name("john.doe")))


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        (lambda _: Authority().issue(), "not issued by this deployment"),
        (lambda users: Authority().issue(issuer=users.name), "not issued by this deployment"),
        (lambda users: users.issue(end=NOW - timedelta(minutes=1)), "has expired"),
        (lambda users: users.issue(begin=NOW + timedelta(hours=1)), "not valid yet"),
        (lambda users: users.issue(extensions=[(SERVER, False)]), "not for clients"),
        (lambda users: users.issue(extensions=[]), "not for clients"),
        (
            lambda users: users.issue(extensions=[(CLIENT, False), (usage(key_agreement=True), True)]),
            "not for signatures",
        ),
        (
            lambda users: users.issue(extensions=[(CLIENT, False), (x509.BasicConstraints(True, 0), True)]),
            "is a CA's",
        ),
        (lambda users: users.issue(None, UNKNOWN), "not understood: 1.3.6.1.4.1.99999.1"),
        (lambda users: users.issue(digest=hashes.SHA224()), "weak digest"),
        (lambda users: users.certificate, "is a CA's"),
    ],
)
def test_what_proves_nothing(
    verifier: Callable[..., ClientCertificates],
    certificate: Callable[[Authority], x509.Certificate],
    reason: str,
) -> None:
    users = Authority()
    with pytest.raises(AuthenticationError, match=reason):
        verifier(users).verify(certificate(users))


ORGANIZATION = x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "project")]))


@pytest.mark.parametrize(
    ("authority", "reason"),
    [
        (lambda: Authority((x509.BasicConstraints(False, None), True)), "not a CA's"),
        (lambda: Authority((usage(digital_signature=True), True)), "not a CA's"),
        (
            lambda: Authority((x509.BasicConstraints(True, 0), True), (usage(digital_signature=True), True)),
            "not a CA's",
        ),
        (lambda: Authority((x509.BasicConstraints(True, 0), True), (SERVER, False)), "for other purposes"),
        (lambda: Authority(end=NOW - timedelta(minutes=1)), "authority that has expired"),
    ],
)
def test_whose_certificates_prove_nothing(
    verifier: Callable[..., ClientCertificates], authority: Callable[[], Authority], reason: str
) -> None:
    users = authority()
    with pytest.raises(AuthenticationError, match=reason):
        verifier(users).verify(users.issue())


def test_an_authority_names_no_one_beyond_its_constraints(
    verifier: Callable[..., ClientCertificates],
) -> None:
    users = Authority(
        (x509.BasicConstraints(True, 0), True), (x509.NameConstraints([ORGANIZATION], None), True)
    )
    certificates = verifier(users)
    certificates.verify(users.issue(name("ada", "project")))
    for stranger in (name("ada"), name("ada", "other"), name("project")):
        with pytest.raises(AuthenticationError, match="name constraints"):
            certificates.verify(users.issue(stranger))


def test_other_authorities_are_believed_at_once(
    tmp_path: Path, verifier: Callable[..., ClientCertificates]
) -> None:
    before, after = Authority(), Authority()
    certificates = verifier(before)
    certificate = before.issue()
    certificates.verify(certificate)
    put(tmp_path / "authorities.pem", after.certificate)
    put(tmp_path / "revocations.pem", after.revoked())
    with pytest.raises(AuthenticationError):
        certificates.verify(certificate)
    certificates.verify(after.issue())


def test_what_is_revoked_is_refused_at_once(
    tmp_path: Path, verifier: Callable[..., ClientCertificates]
) -> None:
    before, users = Authority(), Authority(name=name("Users", "other"))
    certificates = verifier(before, users)
    lost, kept, older = users.issue(), users.issue(), before.issue()
    for certificate in (lost, kept, older):
        certificates.verify(certificate)
    put(tmp_path / "revocations.pem", users.revoked(lost), before.revoked())
    with pytest.raises(AuthenticationError, match="was revoked"):
        certificates.verify(lost)
    certificates.verify(kept)
    certificates.verify(older)


@pytest.mark.parametrize(
    "lists",
    [
        lambda _: [],
        # Of the same name, by another's key.
        lambda _: [Authority().revoked()],
        lambda users: [users.revoked(end=NOW - timedelta(minutes=1))],
    ],
    ids=["missing", "forged", "out of date"],
)
def test_without_a_list_of_revocations_nobody_is_believed(
    tmp_path: Path,
    verifier: Callable[..., ClientCertificates],
    lists: Callable[[Authority], list[x509.CertificateRevocationList]],
) -> None:
    users = Authority()
    certificates = verifier(users)
    put(tmp_path / "revocations.pem", *lists(users))
    with pytest.raises(IssuerUnavailable):
        certificates.verify(users.issue())


@pytest.mark.parametrize("content", [None, b"nonsense"])
@pytest.mark.parametrize("name", ["authorities.pem", "revocations.pem"])
def test_without_its_files_nobody_is_believed(
    tmp_path: Path, verifier: Callable[..., ClientCertificates], name: str, content: bytes | None
) -> None:
    users = Authority()
    certificates = verifier(users)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(IssuerUnavailable):
        certificates.verify(users.issue())
