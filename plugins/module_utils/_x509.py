# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificate authorities of a deployment (RFC 5280). Private to the collection.

Pure functions over the `cryptography` library (38 and later): build the CAs of servers and of clients, issue and revoke
certificates, and say why an existing one must be replaced. The modules read and write the files.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import re
import secrets
import traceback
import warnings
from dataclasses import dataclass
from typing import Any

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
    from cryptography.hazmat.primitives.serialization import pkcs12
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError:
    CRYPTOGRAPHY_ERROR: str | None = traceback.format_exc()
else:
    CRYPTOGRAPHY_ERROR = None

# Clocks of two machines may disagree a little.
BACKDATE = datetime.timedelta(minutes=10)
TRUST_STORE_PASSWORD = b"changeit"  # Java's customary one; the store holds nothing secret


@dataclass(frozen=True)
class Names:
    """Names and addresses that a server certificate is valid for."""

    common_name: str
    dns: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()

    def alternatives(self) -> list[Any]:
        """Return subject alternative names in a fixed order, without duplicates."""
        dns = sorted({self.common_name.lower(), *(name.lower() for name in self.dns)})
        addresses = sorted(
            {ipaddress.ip_address(address) for address in self.addresses}, key=lambda a: (a.version, a)
        )
        return [*(x509.DNSName(name) for name in dns), *(x509.IPAddress(address) for address in addresses)]

    def as_text(self) -> list[str]:
        """Return the alternative names as `DNS:…` and `IP:…`."""
        return describe_names(self.alternatives())


@dataclass
class Pair:
    """Certificate with its private key."""

    certificate: Any
    key: Any

    @property
    def certificate_pem(self) -> bytes:
        return pem(self.certificate)

    @property
    def key_pem(self) -> bytes:
        encoded: bytes = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return encoded


def now() -> datetime.datetime:
    """Return the present time, UTC, in whole seconds, which is the resolution of certificates."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def not_after(certificate: Any) -> datetime.datetime:
    """Return the end of validity, UTC."""
    return _aware(certificate, "not_valid_after")


def _aware(holder: Any, name: str) -> datetime.datetime:
    """Return a time of a certificate or revocation, UTC (`cryptography` before 42 only has naive ones)."""
    found: datetime.datetime
    try:
        found = getattr(holder, f"{name}_utc")
    except AttributeError:
        found = getattr(holder, name).replace(tzinfo=datetime.UTC)
    return found


def not_before(certificate: Any) -> datetime.datetime:
    """Return the beginning of validity, UTC."""
    return _aware(certificate, "not_valid_before")


def fingerprint(certificate: Any) -> str:
    """Return the SHA-256 fingerprint, upper-case hex pairs joined by colons."""
    digest: bytes = certificate.fingerprint(hashes.SHA256())
    return digest.hex(":").upper()


def describe_names(names: Any) -> list[str]:
    """Return general names as `DNS:…` and `IP:…`."""
    return [f"IP:{n.value}" if isinstance(n, x509.IPAddress) else f"DNS:{n.value}" for n in names]


def alternatives_of(certificate: Any) -> list[str]:
    """Return the subject alternative names of a certificate."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return describe_names(extension.value)


def describe(certificate: Any) -> dict[str, Any]:
    """Return the properties of a certificate that are reported to users."""
    return {
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "serial": f"{certificate.serial_number:x}",
        "names": alternatives_of(certificate),
        "not_after": not_after(certificate).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "fingerprint": fingerprint(certificate),
    }


def new_key(key_type: str) -> Any:
    """Generate a private key: `ec` is P-256, `rsa` has 3072 bits."""
    if key_type == "ec":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(public_exponent=65537, key_size=3072)


def key_type_of(key: Any) -> str:
    return "rsa" if isinstance(key, rsa.RSAPrivateKey) else "ec"


def pem(certificate: Any) -> bytes:
    """Return a certificate or a revocation list as PEM."""
    encoded: bytes = certificate.public_bytes(serialization.Encoding.PEM)
    return encoded


def load_certificates(content: bytes | None) -> list[Any]:
    """Return every certificate of a file; none if one of them cannot be read."""
    end = b"-----END CERTIFICATE-----\n"
    try:
        return [x509.load_pem_x509_certificate(part + end) for part in (content or b"").split(end)[:-1]]
    except ValueError:
        return []


def load_readable(content: bytes | None) -> list[Any]:
    """Return the certificates of a bundle of many authorities, without those that cannot be read."""
    found = re.findall(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", content or b"", re.DOTALL)
    certificates = []
    with warnings.catch_warnings():
        # Of old roots, whose serial numbers are none; a later version of the library refuses them.
        warnings.simplefilter("ignore")
        for part in found:
            with contextlib.suppress(ValueError):
                certificates.append(x509.load_pem_x509_certificate(part))
    return certificates


def load(certificate_pem: bytes | None, key_pem: bytes | None) -> Pair:
    """Read a certificate and its key. Raises ValueError if one is missing, broken or does not match the other."""
    if certificate_pem is None or key_pem is None:
        raise ValueError("missing")
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
    except ValueError as error:
        raise ValueError(f"the certificate cannot be read ({error})") from error
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError) as error:
        raise ValueError("the key cannot be read (damaged, or protected by a passphrase)") from error
    if _public_bytes(key.public_key()) != _public_bytes(certificate.public_key()):
        raise ValueError("the key does not belong to the certificate")
    return Pair(certificate, key)


def create_ca(organization: str, days: int, key_type: str) -> Pair:
    """Create a self-signed CA. Path length 1 lets it cross-sign its successor in a rotation."""
    # The random part keeps apart the CAs of two deployments, and the old and the new one of a rotation.
    name = subject(f"Cavern CA {secrets.token_hex(4)}", organization)
    key = new_key(key_type)
    return Pair(_authority(name, key, days, path_length=1).sign(key, hashes.SHA256()), key)


def create_client_ca(organization: str, days: int, key_type: str) -> Pair:
    """Create a self-signed CA of clients: it can certify only names of the organization, and no machine.

    It constrains no DNS names, since OpenSSL takes a user name with a dot for one.
    """
    name = subject(f"Cavern client CA {secrets.token_hex(4)}", organization)
    key = new_key(key_type)
    everywhere = [x509.IPAddress(ipaddress.ip_network(network)) for network in ("0.0.0.0/0", "::/0")]
    certificate = (
        _authority(name, key, days, path_length=0)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(
            x509.NameConstraints([x509.DirectoryName(_organization(organization))], everywhere), critical=True
        )
        .sign(key, hashes.SHA256())
    )
    return Pair(certificate, key)


def revocations(ca: Pair, revoked: dict[int, datetime.datetime]) -> Any:
    """Return the CA's revocation list of serial numbers with the time of their revocation.

    It expires with the CA: its readers get each new one at once, and an expired one would lock all users out.
    """
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.certificate.subject)
        .last_update(now() - BACKDATE)
        .next_update(not_after(ca.certificate))
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key()), critical=False
        )
        .add_extension(x509.CRLNumber(int(now().timestamp())), critical=False)
    )
    for serial, when in sorted(revoked.items()):
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(ca.key, hashes.SHA256())


def revoked_by(crl: Any) -> dict[int, datetime.datetime]:
    """Return the serial numbers of a revocation list with the time of their revocation."""
    return {entry.serial_number: _aware(entry, "revocation_date") for entry in crl}


def load_revocations(content: bytes | None) -> list[Any]:
    """Return every revocation list of a file; none if one of them cannot be read."""
    end = b"-----END X509 CRL-----\n"
    try:
        return [x509.load_pem_x509_crl(part + end) for part in (content or b"").split(end)[:-1]]
    except ValueError:
        return []


def lists_for(crl: Any, ca: Any) -> bool:
    """Whether a revocation list was issued by the CA."""
    return bool(crl.issuer == ca.subject and crl.is_signature_valid(ca.public_key()))


def cross_sign(ca: Pair, predecessor: Pair) -> Any:
    """Return the CA's name and key certified by the CA before it (RFC 4949, cross-certificate).

    Sent along with a server certificate, it lets clients that know only the predecessor verify it.
    """
    end = min(not_after(ca.certificate), not_after(predecessor.certificate))
    return (
        _builder(ca.certificate.subject, predecessor.certificate.subject, ca.key.public_key(), end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(predecessor.key.public_key()), critical=False
        )
        .sign(predecessor.key, hashes.SHA256())
    )


def issue_server(ca: Pair, names: Names, days: int, key_type: str) -> Pair:
    """Issue a server certificate for `names`; it never outlives the CA."""
    key = new_key(key_type)
    builder = _leaf(ca, subject(names.common_name), key, days, ExtendedKeyUsageOID.SERVER_AUTH)
    builder = builder.add_extension(x509.SubjectAlternativeName(names.alternatives()), critical=False)
    return Pair(builder.sign(ca.key, hashes.SHA256()), key)


def issue_client(ca: Pair, user: str, days: int, key_type: str) -> Pair:
    """Issue a client certificate for a user of the CA's organization."""
    key = new_key(key_type)
    builder = _leaf(ca, client_subject(ca.certificate, user), key, days, ExtendedKeyUsageOID.CLIENT_AUTH)
    return Pair(builder.sign(ca.key, hashes.SHA256()), key)


def client_subject(ca: Any, user: str) -> Any:
    """Return the subject of a user's certificate of the CA: its organization and `CN=<user>`."""
    organization = ca.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return subject(user, organization[0].value if organization else None)


def is_signed_by(certificate: Any, ca: Any) -> bool:
    """Whether the certificate is signed by the CA's key."""
    public_key = ca.public_key()
    if certificate.issuer != ca.subject:
        return False
    arguments: tuple[Any, ...] = ()
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        arguments = (ec.ECDSA(certificate.signature_hash_algorithm),)
    elif isinstance(public_key, rsa.RSAPublicKey):
        arguments = (_rsa_padding(certificate), certificate.signature_hash_algorithm)
    try:
        public_key.verify(certificate.signature, certificate.tbs_certificate_bytes, *arguments)
    except InvalidSignature:
        return False
    return True


def _rsa_padding(certificate: Any) -> Any:
    try:
        return certificate.signature_algorithm_parameters
    except AttributeError:  # before 41, where PSS is not told from the usual one
        return padding.PKCS1v15()


def is_authority(certificate: Any) -> bool:
    """Return whether a certificate is a CA's by its basic constraints."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return False
    return bool(constraints.ca)


def serves_servers(certificate: Any) -> bool:
    """Return whether a TLS server may use a certificate: its extended key usage says so, or there is none."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return bool({ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(usage))


def ageing(certificate: Any, renew_days: int) -> str | None:
    """Return why a certificate must be renewed because of its age, None if it need not be."""
    end = not_after(certificate)
    left = end - now()
    if left <= datetime.timedelta(0):
        return f"expired on {end:%Y-%m-%d}"
    if left < datetime.timedelta(days=renew_days):
        return f"expires on {end:%Y-%m-%d}, within {renew_days} days"
    return None


def ca_reason(ca: Pair, renew_days: int, key_type: str) -> str | None:
    """Return why a CA must be replaced, None if it need not be."""
    if not is_authority(ca.certificate):
        return "is not a CA certificate"
    if key_type_of(ca.key) != key_type:
        return f"key type is {key_type_of(ca.key)}, wanted {key_type}"
    return ageing(ca.certificate, renew_days)


def leaf_reason(leaf: Pair, ca: Pair, renew_days: int, key_type: str) -> str | None:
    """Return why an end-entity certificate must be re-issued, None if it need not be."""
    if not is_signed_by(leaf.certificate, ca.certificate):
        return "not signed by the present CA"
    if key_type_of(leaf.key) != key_type:
        return f"key type is {key_type_of(leaf.key)}, wanted {key_type}"
    return ageing(leaf.certificate, renew_days)


def server_reason(server: Pair, ca: Pair, names: Names, renew_days: int, key_type: str) -> str | None:
    """Return why a server certificate must be re-issued, None if it need not be."""
    present, wanted = alternatives_of(server.certificate), names.as_text()
    if sorted(present) != sorted(wanted):
        changes = [f"+{n}" for n in wanted if n not in present] + [
            f"-{n}" for n in present if n not in wanted
        ]
        return f"names changed: {' '.join(changes)}"
    if server.certificate.subject != subject(names.common_name):
        return f"subject is {server.certificate.subject.rfc4514_string()}"
    return leaf_reason(server, ca, renew_days, key_type)


def trust_store(ca: Any) -> bytes | None:
    """Return a PKCS#12 trust store for Java; None where `cryptography` (before 45) cannot write it."""
    if not hasattr(pkcs12, "serialize_java_truststore"):
        return None
    return pkcs12.serialize_java_truststore(
        [pkcs12.PKCS12Certificate(ca, b"cavern-ca")],
        serialization.BestAvailableEncryption(TRUST_STORE_PASSWORD),
    )


def trust_store_holds(store: bytes | None, ca: Any) -> bool:
    """Whether a PKCS#12 trust store holds exactly this CA (its bytes differ each time it is made)."""
    if store is None:
        return False
    try:
        content = pkcs12.load_pkcs12(store, TRUST_STORE_PASSWORD)
    except ValueError:
        return False
    return [entry.certificate for entry in content.additional_certs] == [ca]


def _public_bytes(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def subject(common_name: str, organization: str | None = None) -> Any:
    """Return a distinguished name: `CN=<common name>`, after the organization if there is one."""
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


def _organization(name: str) -> Any:
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)])


def _authority(name: Any, key: Any, days: int, path_length: int) -> Any:
    public_key = key.public_key()
    return (
        _builder(name, name, public_key, now() + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public_key), critical=False)
    )


def _key_usage(**used: bool) -> Any:
    flags = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(**(flags | used))


def _builder(subject: Any, issuer: Any, public_key: Any, end: datetime.datetime) -> Any:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - BACKDATE)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _leaf(ca: Pair, subject: Any, key: Any, days: int, usage: Any) -> Any:
    end = min(now() + datetime.timedelta(days=days), not_after(ca.certificate))
    return (
        _builder(subject, ca.certificate.subject, key.public_key(), end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            _key_usage(digital_signature=True, key_encipherment=key_type_of(key) == "rsa"), critical=True
        )
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key()), critical=False
        )
    )
