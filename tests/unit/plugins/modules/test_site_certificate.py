# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A server certificate that another authority has issued."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils import _x509
from ansible_collections.skasrc.cavern.plugins.modules import certificates

NAME = "cavern.example.org"


class Authority:
    """A site's authority: a root, and an intermediate one that issues."""

    def __init__(self, key_type: str = "ec") -> None:
        self.root = _x509.create_ca("Site", 3650, key_type)
        issuing = _x509.create_ca("Site issuing", 1000, key_type)
        self.issuing = _x509.Pair(_x509.cross_sign(issuing, self.root), issuing.key)

    def issue(self, name: str = NAME, days: int = 90) -> _x509.Pair:
        return _x509.issue_server(self.issuing, _x509.Names(name), days, "ec")


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def options(tmp_path: Path, authority: Authority) -> dict[str, Any]:
    """Options of a site whose authority the host does not know, and its files as certbot lays them out."""
    (tmp_path / "host-bundle.crt").write_bytes(_x509.create_ca("Public", 3650, "ec").certificate_pem)
    (tmp_path / "chain.pem").write_bytes(authority.issuing.certificate_pem + authority.root.certificate_pem)
    _write(tmp_path, authority.issue())
    return {
        "directory": str(tmp_path / "certs"),
        "common_name": NAME,
        "host_bundle": str(tmp_path / "host-bundle.crt"),
        "server_cert": str(tmp_path / "cert.pem"),
        "server_key": str(tmp_path / "privkey.pem"),
        "server_chain": str(tmp_path / "chain.pem"),
    }


def _write(directory: Path, pair: _x509.Pair) -> None:
    (directory / "cert.pem").write_bytes(pair.certificate_pem)
    (directory / "privkey.pem").write_bytes(pair.key_pem)


def _files(options: dict[str, Any]) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(options["directory"]).iterdir() if path.is_file()}


def _own(options: dict[str, Any]) -> dict[str, Any]:
    return {option: value for option, value in options.items() if not option.startswith("server_")}


@pytest.mark.parametrize("key_type", ["ec", "rsa"])
def test_the_sites_certificate_is_served_with_its_chain(
    run_module: Any, options: dict[str, Any], tmp_path: Path, key_type: str
) -> None:
    authority = Authority(key_type)
    pair = authority.issue()
    _write(tmp_path, pair)
    (tmp_path / "chain.pem").write_bytes(authority.root.certificate_pem + authority.issuing.certificate_pem)
    checked = run_module(certificates, check=True, **options)
    assert not Path(options["directory"]).exists()
    result = run_module(certificates, **options)
    assert result["actions"] == checked["actions"]
    files = _files(options)
    assert files["haproxy.pem"] == (pair.certificate_pem + authority.issuing.certificate_pem + pair.key_pem)
    assert files["ca.pem"] == authority.root.certificate_pem
    assert files["ca-bundle.pem"].endswith(authority.root.certificate_pem)
    assert _x509.trust_store_holds(files["truststore.p12"], authority.root.certificate)
    assert "ca.key" not in files
    assert Path(options["directory"], "server.key").stat().st_mode & 0o777 == 0o600
    assert result["server"]["fingerprint"] == _x509.fingerprint(pair.certificate)
    assert "KEY" not in str(result)
    assert not run_module(certificates, **options)["changed"]


def test_a_root_that_the_host_knows_needs_no_chain_beyond_the_intermediate(
    run_module: Any, options: dict[str, Any], authority: Authority, tmp_path: Path
) -> None:
    """As with a public authority: one file with the certificate and the intermediate, `fullchain.pem`."""
    (tmp_path / "host-bundle.crt").write_bytes(authority.root.certificate_pem)
    with (tmp_path / "cert.pem").open("ab") as stream:
        stream.write(b"# the intermediate\r\n")
        stream.write(authority.issuing.certificate_pem.replace(b"\n", b"\r\n"))
    del options["server_chain"]
    run_module(certificates, **options)
    files = _files(options)
    assert files["haproxy.pem"].count(b"BEGIN CERTIFICATE") == 2
    assert files["ca.pem"] == authority.root.certificate_pem


def test_a_renewed_certificate_changes_what_is_served_alone(
    run_module: Any, options: dict[str, Any], authority: Authority, tmp_path: Path
) -> None:
    run_module(certificates, **options)
    before = _files(options)
    _write(tmp_path, authority.issue())
    result = run_module(certificates, **options)
    assert [(action["name"], action["action"]) for action in result["actions"]] == [
        ("server", "update"),
        ("server.key", "update"),
        ("haproxy.pem", "update"),
    ]
    after = _files(options)
    assert {name for name in after if after[name] != before[name]} == {
        "server.pem",
        "server.key",
        "haproxy.pem",
    }


def test_what_was_trusted_before_stays_so_until_told(run_module: Any, options: dict[str, Any]) -> None:
    """The deployment's own CA after the change to the site's, and the other way round."""
    run_module(certificates, **_own(options))
    own = _files(options)["ca.pem"]
    run_module(certificates, **options)
    files = _files(options)
    assert files["ca-previous.pem"] == own
    assert files["ca-bundle.pem"].endswith(files["ca.pem"] + own)
    assert "ca.key" not in files
    assert not run_module(certificates, **options)["changed"]
    run_module(certificates, **options, rotate=["previous"])
    assert own not in _files(options)["ca-bundle.pem"]
    run_module(certificates, **_own(options))
    assert _files(options)["server.pem"] != files["server.pem"]
    assert not run_module(certificates, **_own(options))["changed"]


def test_one_that_ends_soon_is_a_warning(
    run_module: Any, options: dict[str, Any], authority: Authority, tmp_path: Path
) -> None:
    _write(tmp_path, authority.issue(days=20))
    assert "within 30 days; have it renewed" in str(run_module(certificates, **options)["warnings"])


def _refused(run_module: Any, options: dict[str, Any]) -> str:
    """Message of the refusal, after which what was there is unchanged."""
    before = _files(options)
    message = str(run_module(certificates, **options)["msg"])
    assert _files(options) == before
    return message


def test_unusable_ones_are_refused_by_name(
    run_module: Any,
    options: dict[str, Any],
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_module(certificates, **options)
    good = authority.issue()

    _write(tmp_path, authority.issue("other.example.org"))
    assert (
        f"server_cert: {tmp_path}/cert.pem is not for the public name {NAME}, but for DNS:other.example.org"
        in _refused(run_module, options)
    )
    _write(tmp_path, authority.issue(f"*.{NAME}"))
    assert "is not for the public name" in _refused(run_module, options)

    (tmp_path / "cert.pem").write_bytes(good.certificate_pem)
    assert "server_key: " in _refused(run_module, options)
    assert "the key does not belong to the certificate" in _refused(run_module, options)

    _write(tmp_path, _x509.Pair(authority.issuing.certificate, authority.issuing.key))
    assert "is not for the public name" in _refused(run_module, options)

    client = _x509.issue_client(authority.issuing, NAME, 90, "ec")
    _write(tmp_path, client)
    assert "no subject alternative name at all" in _refused(run_module, options)

    now = _x509.now()
    for past, told in ((-100, "expired on"), (100, "is not valid before")):
        moment = now + datetime.timedelta(days=past)
        with monkeypatch.context() as patched:
            patched.setattr(_x509, "now", lambda moment=moment: moment)
            _write(tmp_path, authority.issue())
        assert told in _refused(run_module, options)

    _write(tmp_path, good)
    (tmp_path / "chain.pem").write_bytes(authority.root.certificate_pem)
    assert f"server_chain: nothing in {tmp_path}/chain.pem" in _refused(run_module, options)
    (tmp_path / "chain.pem").write_bytes(authority.issuing.certificate_pem)
    assert "and those above it up to the root" in _refused(run_module, options)
    (tmp_path / "chain.pem").write_bytes(b"no certificate")
    assert "holds no readable PEM certificate" in _refused(run_module, options)

    (tmp_path / "privkey.pem").unlink()
    assert f"server_key: {tmp_path}/privkey.pem does not exist on this host" in _refused(run_module, options)


def test_a_wildcard_is_good_for_one_label(
    run_module: Any, options: dict[str, Any], authority: Authority, tmp_path: Path
) -> None:
    _write(tmp_path, authority.issue("*.example.org"))
    assert run_module(certificates, **options)["changed"]


@pytest.mark.parametrize(
    ("left", "message"),
    [
        ({"server_key", "server_chain"}, "server_cert: must be given together with server_key"),
        ({"server_cert", "server_chain"}, "server_key: must be given together with server_cert"),
        ({"server_chain"}, "server_chain: needs server_cert and server_key"),
    ],
)
def test_incomplete_options_name_the_field(
    run_module: Any, options: dict[str, Any], left: set[str], message: str
) -> None:
    given = _own(options) | {name: options[name] for name in left}
    assert message in run_module(certificates, **given)["msg"]
    assert not Path(options["directory"]).exists()


def test_rotation_is_the_authoritys(run_module: Any, options: dict[str, Any]) -> None:
    assert (
        "rotate: server cannot be replaced here"
        in run_module(certificates, **options, rotate=["server"])["msg"]
    )


def test_what_cannot_be_read_in_the_hosts_bundle_hides_no_other(
    run_module: Any, options: dict[str, Any], authority: Authority, tmp_path: Path
) -> None:
    broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    (tmp_path / "host-bundle.crt").write_bytes(broken + authority.root.certificate_pem)
    (tmp_path / "chain.pem").write_bytes(authority.issuing.certificate_pem)
    assert run_module(certificates, **options)["changed"]


def test_an_authoritys_later_certificate_is_taken(
    run_module: Any,
    options: dict[str, Any],
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two for the same name and key, of which the host still has the one that has ended."""
    past = _x509.now() - datetime.timedelta(days=4000)
    with monkeypatch.context() as patched:
        patched.setattr(_x509, "now", lambda: past)
        other = _x509.create_ca("Older", 100, "ec")
        ended = _x509.cross_sign(authority.root, other)
    (tmp_path / "host-bundle.crt").write_bytes(_x509.pem(ended) + authority.root.certificate_pem)
    (tmp_path / "chain.pem").write_bytes(authority.issuing.certificate_pem)
    assert run_module(certificates, **options)["changed"]


def test_a_chain_through_what_is_no_authority_is_refused(
    run_module: Any, options: dict[str, Any], authority: Authority, tmp_path: Path
) -> None:
    server = authority.issue("issuer.example.org")
    pair = _x509.issue_server(server, _x509.Names(NAME), 90, "ec")
    _write(tmp_path, pair)
    (tmp_path / "chain.pem").write_bytes(
        server.certificate_pem + authority.issuing.certificate_pem + authority.root.certificate_pem
    )
    assert "CN=issuer.example.org has signed" in run_module(certificates, **options)["msg"]
