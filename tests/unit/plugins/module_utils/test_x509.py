# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The certificate authority: real handshakes accept what it issues, and ageing or foreign certificates are told."""

from __future__ import annotations

import contextlib
import datetime
import ssl
from pathlib import Path

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils import _x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes

DAY = datetime.timedelta(days=1)
NAMES = _x509.Names("cavern.example.org", ("localhost",), ("127.0.0.1", "::1"))


@pytest.fixture(scope="module", params=["ec", "rsa"])
def ca(request: pytest.FixtureRequest) -> _x509.Pair:
    return _x509.create_ca("Example", 100, request.param)


def _key_type(ca: _x509.Pair) -> str:
    return _x509.key_type_of(ca.key)


@pytest.fixture(scope="module")
def users(ca: _x509.Pair) -> _x509.Pair:
    """The CA of clients, with a key of the same type."""
    return _x509.create_client_ca("Example", 100, _key_type(ca))


def _handshake(
    directory: Path,
    ca: _x509.Pair,
    server: _x509.Pair,
    users: _x509.Pair,
    client: _x509.Pair,
    name: str = "localhost",
    between: bytes = b"",
    revoked: list[int] | None = None,
) -> dict[str, object]:
    """The client's certificate as the server saw it, after a mutual handshake with RFC 5280 checks on both sides."""
    (directory / "ca.pem").write_bytes(ca.certificate_pem)
    lists = _x509.revocations(users, dict.fromkeys(revoked or [], _x509.now()))
    (directory / "users.pem").write_bytes(users.certificate_pem + _x509.pem(lists))
    (directory / "server.pem").write_bytes(server.certificate_pem + between + server.key_pem)
    (directory / "client.pem").write_bytes(client.certificate_pem + client.key_pem)
    listening = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=directory / "users.pem")
    listening.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    listening.load_cert_chain(directory / "server.pem")
    listening.verify_mode = ssl.CERT_REQUIRED
    asking = ssl.create_default_context(cafile=directory / "ca.pem")
    asking.load_cert_chain(directory / "client.pem")
    for context in (listening, asking):
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    far = listening.wrap_bio(to_server, to_client, server_side=True)
    near = asking.wrap_bio(to_client, to_server, server_hostname=name)
    # TLS 1.3: hello; server's flight; client's flight; server's finish.
    for side in (near, far, near, far):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    return dict(far.getpeercert() or {})


@pytest.mark.parametrize("name", ["cavern.example.org", "localhost", "127.0.0.1"])
def test_handshake_with_strict_checks(ca: _x509.Pair, users: _x509.Pair, tmp_path: Path, name: str) -> None:
    server = _x509.issue_server(ca, NAMES, 10, _key_type(ca))
    # OpenSSL takes a name with a dot for a host's where a CA constrains those.
    client = _x509.issue_client(users, "ada.lovelace", 10, _key_type(ca))
    seen = _handshake(tmp_path, ca, server, users, client, name)
    assert seen["subject"] == ((("organizationName", "Example"),), (("commonName", "ada.lovelace"),))


def test_a_revoked_certificate_is_refused_and_no_other(
    ca: _x509.Pair, users: _x509.Pair, tmp_path: Path
) -> None:
    server = _x509.issue_server(ca, NAMES, 10, _key_type(ca))
    client, other = (_x509.issue_client(users, "ada", 10, _key_type(ca)) for _unused in range(2))
    revoked = [client.certificate.serial_number]
    assert _handshake(tmp_path, ca, server, users, other, revoked=revoked)
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
        _handshake(tmp_path, ca, server, users, client, revoked=revoked)


@pytest.mark.parametrize(
    "names",
    [
        _x509.Names("cavern.example.org", ("cavern.example.org",)),
        _x509.Names("cavern.example.org", (), ("127.0.0.1", "::1")),
    ],
)
def test_the_ca_of_clients_makes_no_servers(
    ca: _x509.Pair, users: _x509.Pair, tmp_path: Path, names: _x509.Names
) -> None:
    server = _x509.issue_server(users, names, 10, _key_type(ca))
    client = _x509.issue_client(users, "ada", 10, _key_type(ca))
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(tmp_path, users, server, users, client, "cavern.example.org")


def test_the_ca_of_clients_names_nobody_beyond_its_organization(
    ca: _x509.Pair, users: _x509.Pair, tmp_path: Path
) -> None:
    server = _x509.issue_server(ca, NAMES, 10, _key_type(ca))
    # What somebody with its key would make: the issuer's name and key are right, the subject is another's.
    builder = _x509._builder(
        _x509.subject("ada", "Other"), users.certificate.subject, users.key.public_key(), _x509.now() + DAY
    )
    made = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(users.key.public_key()), critical=False
    ).sign(users.key, hashes.SHA256())
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        _handshake(tmp_path, ca, server, users, _x509.Pair(made, users.key))


def test_lists_of_revocations_are_told_apart(users: _x509.Pair) -> None:
    other = _x509.create_client_ca("Example", 100, _x509.key_type_of(users.key))
    when = _x509.now()
    lists = _x509.revocations(users, {7: when})
    assert _x509.lists_for(lists, users.certificate)
    assert not _x509.lists_for(lists, other.certificate)
    forged = _x509.revocations(_x509.Pair(users.certificate, other.key), {})
    assert not _x509.lists_for(forged, users.certificate)
    content = _x509.pem(lists) + _x509.pem(forged)
    assert [_x509.revoked_by(crl) for crl in _x509.load_revocations(content)] == [{7: when}, {}]
    assert _x509.load_revocations(b"nonsense\n-----END X509 CRL-----\n") == []
    assert _x509.load_revocations(None) == []


def test_clients_of_either_ca_accept_a_cross_signed_chain(
    ca: _x509.Pair, users: _x509.Pair, tmp_path: Path
) -> None:
    successor = _x509.create_ca("Example", 100, _key_type(ca))
    cross = _x509.pem(_x509.cross_sign(successor, ca))
    server = _x509.issue_server(successor, NAMES, 10, _key_type(ca))
    client = _x509.issue_client(users, "ada", 10, _key_type(ca))
    assert _handshake(tmp_path, ca, server, users, client, between=cross)
    assert _handshake(tmp_path, successor, server, users, client, between=cross)
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        _handshake(tmp_path, ca, server, users, client)


def test_other_name_is_refused(ca: _x509.Pair, users: _x509.Pair, tmp_path: Path) -> None:
    server = _x509.issue_server(ca, NAMES, 10, _key_type(ca))
    client = _x509.issue_client(users, "ada", 10, _key_type(ca))
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        _handshake(tmp_path, ca, server, users, client, "other.example.org")


def test_fresh_pairs_serve(ca: _x509.Pair) -> None:
    server = _x509.issue_server(ca, NAMES, 50, _key_type(ca))
    assert _x509.ca_reason(ca, 30, _key_type(ca)) is None
    assert _x509.server_reason(server, ca, NAMES, 30, _key_type(ca)) is None


def test_near_end_is_a_reason(ca: _x509.Pair) -> None:
    server = _x509.issue_server(ca, NAMES, 20, _key_type(ca))
    assert "within 30 days" in str(_x509.server_reason(server, ca, NAMES, 30, _key_type(ca)))
    assert "within 200 days" in str(_x509.ca_reason(ca, 200, _key_type(ca)))


def test_changed_names_are_told(ca: _x509.Pair) -> None:
    server = _x509.issue_server(ca, NAMES, 50, _key_type(ca))
    wanted = _x509.Names("cavern.example.org", ("api.example.org",), ("127.0.0.1", "::1"))
    reason = _x509.server_reason(server, ca, wanted, 30, _key_type(ca))
    assert reason == "names changed: +DNS:api.example.org -DNS:localhost"


def test_another_ca_is_a_reason(ca: _x509.Pair) -> None:
    other = _x509.create_ca("Example", 100, _key_type(ca))
    server = _x509.issue_server(ca, NAMES, 50, _key_type(ca))
    assert _x509.server_reason(server, other, NAMES, 30, _key_type(ca)) == "not signed by the present CA"


def test_forged_issuer_name_is_not_a_signature(ca: _x509.Pair) -> None:
    other = _x509.create_ca("Example", 100, _key_type(ca))
    forger = _x509.Pair(ca.certificate, other.key)
    leaf = _x509.issue_client(forger, "ada", 10, _key_type(ca))
    assert leaf.certificate.issuer == ca.certificate.subject
    assert not _x509.is_signed_by(leaf.certificate, ca.certificate)


def test_leaf_never_outlives_the_ca(ca: _x509.Pair) -> None:
    server = _x509.issue_server(ca, NAMES, 5000, _key_type(ca))
    assert _x509.not_after(server.certificate) == _x509.not_after(ca.certificate)


def test_end_of_validity_is_an_aware_time(ca: _x509.Pair) -> None:
    left = _x509.not_after(ca.certificate) - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(days=99) < left <= datetime.timedelta(days=100)


def test_load_tells_what_is_wrong(ca: _x509.Pair) -> None:
    other = _x509.create_ca("Example", 100, _key_type(ca))
    with pytest.raises(ValueError, match="missing"):
        _x509.load(None, ca.key_pem)
    with pytest.raises(ValueError, match="certificate cannot be read"):
        _x509.load(b"nonsense", ca.key_pem)
    with pytest.raises(ValueError, match="key cannot be read"):
        _x509.load(ca.certificate_pem, b"nonsense")
    with pytest.raises(ValueError, match="does not belong"):
        _x509.load(ca.certificate_pem, other.key_pem)


def test_trust_store_holds_the_ca_alone(ca: _x509.Pair) -> None:
    other = _x509.create_ca("Example", 100, _key_type(ca))
    store = _x509.trust_store(ca.certificate)
    assert _x509.trust_store_holds(store, ca.certificate)
    assert not _x509.trust_store_holds(store, other.certificate)
    assert not _x509.trust_store_holds(None, ca.certificate)
    assert not _x509.trust_store_holds(b"nonsense", ca.certificate)
