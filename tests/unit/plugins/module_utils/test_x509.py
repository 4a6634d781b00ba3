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

NAMES = _x509.Names("cavern.example.org", ("localhost",), ("127.0.0.1", "::1"))


@pytest.fixture(scope="module", params=["ec", "rsa"])
def ca(request: pytest.FixtureRequest) -> _x509.Pair:
    return _x509.create_ca("Example", 100, request.param)


def _key_type(ca: _x509.Pair) -> str:
    return _x509.key_type_of(ca.key)


def _handshake(
    directory: Path, ca: _x509.Pair, server: _x509.Pair, client: _x509.Pair, name: str, between: bytes = b""
) -> dict[str, object]:
    """The client's subject as the server saw it, after a mutual TLS handshake with RFC 5280 checks on both sides."""
    (directory / "ca.pem").write_bytes(ca.certificate_pem)
    (directory / "server.pem").write_bytes(server.certificate_pem + between + server.key_pem)
    (directory / "client.pem").write_bytes(client.certificate_pem + client.key_pem)
    listening = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=directory / "ca.pem")
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
def test_handshake_with_strict_checks(ca: _x509.Pair, tmp_path: Path, name: str) -> None:
    server = _x509.issue_server(ca, NAMES, 10, _key_type(ca))
    client = _x509.issue_client(ca, "ada", 10, _key_type(ca))
    assert _handshake(tmp_path, ca, server, client, name)["subject"] == ((("commonName", "ada"),),)


def test_clients_of_either_ca_accept_a_cross_signed_chain(ca: _x509.Pair, tmp_path: Path) -> None:
    successor = _x509.create_ca("Example", 100, _key_type(ca))
    cross = _x509.pem(_x509.cross_sign(successor, ca))
    server = _x509.issue_server(successor, NAMES, 10, _key_type(ca))
    old, new = (_x509.issue_client(issuer, "ada", 10, _key_type(ca)) for issuer in (ca, successor))
    assert _handshake(tmp_path, ca, server, old, "localhost", cross)
    assert _handshake(tmp_path, successor, server, new, "localhost", cross)
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        _handshake(tmp_path, ca, server, old, "localhost")


def test_other_name_is_refused(ca: _x509.Pair, tmp_path: Path) -> None:
    server = _x509.issue_server(ca, NAMES, 10, _key_type(ca))
    client = _x509.issue_client(ca, "ada", 10, _key_type(ca))
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        _handshake(tmp_path, ca, server, client, "other.example.org")


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
