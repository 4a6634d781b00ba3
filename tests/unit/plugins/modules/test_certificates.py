# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils import _x509
from ansible_collections.skasrc.cavern.plugins.modules import certificates, client_certificate

MODES = {
    "ca.key": 0o600,
    "ca.pem": 0o644,
    "server.key": 0o600,
    "server.pem": 0o644,
    "haproxy.pem": 0o600,
    "ca-bundle.pem": 0o644,
    "authorities.pem": 0o644,
    "client-ca.key": 0o600,
    "client-ca.pem": 0o644,
    "client-crl.pem": 0o644,
    "truststore.p12": 0o644,
}


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    bundle = tmp_path / "host-bundle.crt"
    bundle.write_bytes(b"# public CAs")
    return {
        "directory": str(tmp_path / "certs"),
        "common_name": "cavern.example.org",
        "host_bundle": str(bundle),
    }


def _files(options: dict[str, Any]) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(options["directory"]).iterdir() if path.is_file()}


def _names(result: dict[str, Any]) -> list[tuple[str, str]]:
    return [(action["object"], action["name"]) for action in result["actions"]]


def test_first_run_makes_every_file_and_the_second_none(run_module: Any, options: dict[str, Any]) -> None:
    result = run_module(certificates, **options)
    directory = Path(options["directory"])
    assert {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()} == MODES
    assert result["server"]["names"] == ["DNS:cavern.example.org", "DNS:localhost", "IP:127.0.0.1"]
    before = _files(options)
    assert before["haproxy.pem"] == before["server.pem"] + before["server.key"]
    assert before["ca-bundle.pem"] == b"# public CAs\n" + before["ca.pem"]
    assert b"PRIVATE KEY" not in before["truststore.p12"] + before["ca-bundle.pem"]
    again = run_module(certificates, **options)
    assert not again["changed"]
    assert again["actions"] == []
    assert _files(options) == before
    assert again["server"]["fingerprint"] == result["server"]["fingerprint"]


def test_check_mode_tells_what_the_run_does_and_writes_nothing(
    run_module: Any, options: dict[str, Any]
) -> None:
    checked = run_module(certificates, check=True, **options)
    assert not Path(options["directory"]).exists()
    assert "fingerprint" not in checked["server"]
    assert run_module(certificates, **options)["actions"] == checked["actions"]


def test_no_key_in_result_or_diff(run_module: Any, options: dict[str, Any]) -> None:
    result = run_module(certificates, **options)
    assert "KEY" not in str(result)


def test_changed_names_reissue_the_server_certificate_alone(run_module: Any, options: dict[str, Any]) -> None:
    run_module(certificates, **options)
    before = _files(options)
    result = run_module(certificates, **options, addresses=["127.0.0.1", "172.26.0.2"])
    assert _names(result) == [("certificate", "server"), ("file", "haproxy.pem")]
    assert result["actions"][0]["reasons"] == ["names changed: +IP:172.26.0.2"]
    after = _files(options)
    assert {name for name in after if after[name] != before[name]} == {
        "server.key",
        "server.pem",
        "haproxy.pem",
    }


def test_rotating_the_server_certificate_keeps_the_ca(run_module: Any, options: dict[str, Any]) -> None:
    first = run_module(certificates, **options)
    result = run_module(certificates, **options, rotate=["server"])
    assert result["ca"]["fingerprint"] == first["ca"]["fingerprint"]
    assert result["server"]["fingerprint"] != first["server"]["fingerprint"]


def test_rotating_the_ca_renews_all_that_hangs_on_it(run_module: Any, options: dict[str, Any]) -> None:
    run_module(certificates, **options)
    before = _files(options)
    checked = run_module(certificates, check=True, **options, rotate=["ca"])
    result = run_module(certificates, **options, rotate=["ca"])
    assert result["actions"] == checked["actions"]
    assert result["actions"][1]["reasons"] == ["not signed by the present CA"]
    after = _files(options)
    same = {name for name in before if after[name] == before[name]}
    assert same == {"client-ca.key", "client-ca.pem", "client-crl.pem"}
    assert not run_module(certificates, **options)["changed"]


def test_ca_before_the_present_one_stays_trusted_until_told(run_module: Any, options: dict[str, Any]) -> None:
    run_module(certificates, **options)
    first = _files(options)["ca.pem"]
    run_module(certificates, **options, rotate=["ca"])
    files = _files(options)
    previous, cross = _x509.load_certificates(files["ca-previous.pem"])
    assert _x509.pem(previous) == first
    assert files["haproxy.pem"] == files["server.pem"] + _x509.pem(cross) + files["server.key"]
    assert files["ca-bundle.pem"].endswith(files["ca.pem"] + first)
    assert not run_module(certificates, **options)["changed"]
    result = run_module(certificates, **options, rotate=["previous"])
    changed = ["ca-previous.pem", "haproxy.pem", "ca-bundle.pem"]
    assert _names(result) == [("file", name) for name in changed]
    files = _files(options)
    assert "ca-previous.pem" not in files
    assert files["haproxy.pem"] == files["server.pem"] + files["server.key"]
    assert not run_module(certificates, **options)["changed"]


def test_certificate_near_its_end_is_renewed(run_module: Any, options: dict[str, Any]) -> None:
    run_module(certificates, **options, days=40)
    result = run_module(certificates, **options, days=90, renew_days=60)
    assert _names(result)[0] == ("certificate", "server")
    assert "within 60 days" in result["actions"][0]["reasons"][0]


@pytest.mark.parametrize(
    ("name", "repaired"),
    [
        ("server.key", {"server.key", "server.pem", "haproxy.pem"}),
        ("client-ca.key", {"client-ca.key", "client-ca.pem", "client-crl.pem"}),
        ("client-ca.pem", {"client-ca.key", "client-ca.pem", "client-crl.pem"}),
        ("client-crl.pem", {"client-crl.pem"}),
        ("haproxy.pem", {"haproxy.pem"}),
        ("ca-bundle.pem", {"ca-bundle.pem"}),
        ("truststore.p12", {"truststore.p12"}),
    ],
)
def test_damage_is_repaired_alone(
    run_module: Any, options: dict[str, Any], name: str, repaired: set[str]
) -> None:
    run_module(certificates, **options)
    before = _files(options)
    (Path(options["directory"]) / name).write_bytes(b"damaged")
    assert run_module(certificates, **options)["changed"]
    after = _files(options)
    assert after[name] != b"damaged"
    assert {n for n in after if after[n] != before[n]} <= repaired
    assert not run_module(certificates, **options)["changed"]


def test_loose_mode_of_a_key_is_repaired(run_module: Any, options: dict[str, Any]) -> None:
    run_module(certificates, **options)
    key = Path(options["directory"]) / "ca.key"
    key.chmod(0o644)
    checked = run_module(certificates, check=True, **options)
    assert checked["actions"][0]["reasons"] == ["mode was 0644, wanted 0600"]
    assert key.stat().st_mode & 0o777 == 0o644
    run_module(certificates, **options)
    assert key.stat().st_mode & 0o777 == 0o600


def test_further_authorities_are_trusted(run_module: Any, options: dict[str, Any], tmp_path: Path) -> None:
    others = [_x509.create_ca(name, 30, "ec").certificate_pem for name in ("Issuer", "Archive")]
    (tmp_path / "others.pem").write_bytes(b"Issuer\r\n" + others[0].replace(b"\n", b"\r\n") + others[1])
    options["authorities"] = [str(tmp_path / "others.pem")]
    run_module(certificates, **options)
    files = _files(options)
    assert files["ca-bundle.pem"] == b"# public CAs\n" + others[0] + others[1] + files["ca.pem"]
    assert files["authorities.pem"] == files["ca.pem"] + others[0] + others[1]
    assert not run_module(certificates, **options)["changed"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist on this host"), ("none", "holds no readable PEM certificate")],
)
def test_authorities_that_are_none_are_refused(
    run_module: Any, options: dict[str, Any], tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "others.pem"
    if content is not None:
        path.write_text(content)
    result = run_module(certificates, **options, authorities=[str(path)])
    assert result["msg"] == f"authorities: {path} {message}"
    assert not Path(options["directory"]).exists()


def test_missing_host_bundle_is_a_warning(run_module: Any, options: dict[str, Any]) -> None:
    options["host_bundle"] += ".missing"
    result = run_module(certificates, **options)
    assert "holds no public CA" in str(result["warnings"])
    assert _files(options)["ca-bundle.pem"] == _files(options)["ca.pem"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"common_name": "no name"}, "common_name: 'no name' is not a DNS name"),
        ({"common_name": ".".join(["abcdefghij"] * 7)}, "at most 64 characters"),
        ({"names": ["-x"]}, "names: '-x' is not a DNS name"),
        ({"addresses": ["172.26.0"]}, "addresses: '172.26.0' is not an IP address"),
        ({"days": 30}, "days: 30 must be more than renew_days (30)"),
        ({"ca_days": 3}, "ca_days: 3 must be more than renew_days (30)"),
        ({"renew_days": -1}, "renew_days: must not be negative"),
    ],
)
def test_bad_options_name_the_field(
    run_module: Any, options: dict[str, Any], wrong: dict[str, Any], message: str
) -> None:
    result = run_module(certificates, **(options | wrong))
    assert message in result["msg"]
    assert not Path(options["directory"]).exists()


def test_client_certificate(run_module: Any, options: dict[str, Any]) -> None:
    run_module(certificates, **options)
    wanted = {"user": "ada", "directory": options["directory"]}
    assert run_module(client_certificate, check=True, **wanted)["reasons"] == ["missing"]
    result = run_module(client_certificate, **wanted)
    path = Path(result["path"])
    assert path == Path(options["directory"]) / "clients/ada.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    pair = _x509.load(path.read_bytes(), path.read_bytes())
    assert pair.certificate.subject.rfc4514_string() == "CN=ada,O=Cavern"
    issuer = _x509.load_certificates(_files(options)["client-ca.pem"])[0]
    assert _x509.is_signed_by(pair.certificate, issuer)
    assert result["certificate"]["fingerprint"] == _x509.fingerprint(pair.certificate)
    assert "PRIVATE" not in str(result)
    assert not run_module(client_certificate, **wanted)["changed"]
    assert run_module(client_certificate, **wanted, force=True)["reasons"] == ["asked for"]
    run_module(certificates, **options, rotate=["ca"])
    assert not run_module(client_certificate, **wanted)["changed"]
    run_module(certificates, **options, rotate=["client-ca"])
    assert run_module(client_certificate, **wanted)["reasons"] == ["not signed by the present CA"]
    assert run_module(client_certificate, **wanted, state="absent")["changed"]
    assert not path.exists()
    assert not run_module(client_certificate, **wanted, state="absent")["changed"]


def test_key_comes_first_in_a_client_certificate(run_module: Any, options: dict[str, Any]) -> None:
    """In files of before too; the certificate stays."""
    run_module(certificates, **options)
    wanted = {"user": "ada", "directory": options["directory"]}
    path = Path(run_module(client_certificate, **wanted)["path"])
    content = path.read_bytes()
    assert re.findall(rb"-----BEGIN ([A-Z ]+)-----", content) == [b"PRIVATE KEY", b"CERTIFICATE"]
    pair = _x509.load(content, content)
    path.write_bytes(pair.certificate_pem + pair.key_pem)
    path.chmod(0o640)
    assert run_module(client_certificate, check=True, **wanted)["changed"]
    assert path.read_bytes() != content
    reasons = run_module(client_certificate, **wanted)["reasons"]
    assert reasons == ["the key does not stand alone before the certificate", "mode was 0640, wanted 0600"]
    assert path.read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o600
    assert not run_module(client_certificate, **wanted)["changed"]


def test_client_certificate_without_ca_says_who_makes_one(run_module: Any, options: dict[str, Any]) -> None:
    result = run_module(client_certificate, user="ada", directory=options["directory"])
    assert "The role certificates makes one" in result["msg"]


@pytest.mark.parametrize("user", ["", "../ada", "a..b", "a/b", "-ada", "x" * 65])
def test_user_names_that_the_services_refuse_get_no_certificate(
    run_module: Any, options: dict[str, Any], user: str
) -> None:
    run_module(certificates, **options)
    assert (
        "is not a user name"
        in run_module(client_certificate, user=user, directory=options["directory"])["msg"]
    )
    assert not (Path(options["directory"]) / "clients").exists()


def _issue(run_module: Any, options: dict[str, Any], user: str, **further: Any) -> Any:
    """A certificate that the user is issued now."""
    result = run_module(client_certificate, user=user, directory=options["directory"], force=True, **further)
    return _x509.load_certificates(
        Path(result["path"]).read_bytes().partition(b"-----END PRIVATE KEY-----\n")[2]
    )[0]


def _revoked(options: dict[str, Any]) -> list[set[int]]:
    """What is revoked by each of the lists."""
    content = (Path(options["directory"]) / "client-crl.pem").read_bytes()
    return [set(_x509.revoked_by(crl)) for crl in _x509.load_revocations(content)]


def test_all_certificates_of_a_user_are_revoked(
    run_module: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    run_module(certificates, **options)
    revoke = {"user": "ada", "directory": options["directory"], "state": "revoked"}
    assert "No certificate of ada is known" in str(run_module(client_certificate, **revoke)["warnings"])
    mine = [
        _issue(run_module, options, "ada"),
        _issue(run_module, options, "ada"),
        _issue(run_module, options, "ada", path=str(tmp_path / "elsewhere.pem")),
    ]
    other = _issue(run_module, options, "eve")
    serials = {certificate.serial_number for certificate in mine}
    before = _files(options)["client-crl.pem"]
    checked = run_module(client_certificate, check=True, **revoke)
    assert _files(options)["client-crl.pem"] == before
    result = run_module(client_certificate, **revoke)
    assert result["revoked"] == checked["revoked"] == [f"{serial:x}" for serial in sorted(serials)]
    assert _revoked(options) == [serials]
    assert other.serial_number not in serials
    assert not (Path(options["directory"]) / "clients/ada.pem").exists()
    again = run_module(client_certificate, **revoke)
    assert not again["changed"]
    assert again["revoked"] == []
    # What is issued afterwards is good, and the list stays as it is.
    new = _issue(run_module, options, "ada")
    assert new.serial_number not in _revoked(options)[0]
    assert not run_module(certificates, **options)["changed"]


def test_a_revoked_certificate_is_issued_again(run_module: Any, options: dict[str, Any]) -> None:
    run_module(certificates, **options)
    _issue(run_module, options, "ada")
    path = Path(options["directory"]) / "clients/ada.pem"
    content = path.read_bytes()
    run_module(client_certificate, user="ada", directory=options["directory"], state="revoked")
    path.write_bytes(content)
    result = run_module(client_certificate, user="ada", directory=options["directory"])
    assert result["reasons"] == ["was revoked"]


def test_client_certificates_of_the_ca_before_are_good_until_told(
    run_module: Any, options: dict[str, Any]
) -> None:
    run_module(certificates, **options)
    old = _issue(run_module, options, "ada")
    run_module(client_certificate, user="eve", directory=options["directory"], force=True)
    first = _files(options)
    checked = run_module(certificates, check=True, **options, rotate=["client-ca"])
    result = run_module(certificates, **options, rotate=["client-ca"])
    assert result["actions"] == checked["actions"]
    assert _names(result) == [
        ("certificate", "client-ca"),
        ("file", "client-ca-previous.key"),
        ("file", "client-crl.pem"),
    ]
    files = _files(options)
    present, previous = _x509.load_certificates(files["client-ca.pem"])
    assert _x509.pem(previous) == first["client-ca.pem"]
    assert files["client-ca-previous.key"] == first["client-ca.key"]
    assert (Path(options["directory"]) / "client-ca-previous.key").stat().st_mode & 0o777 == 0o600
    assert not run_module(certificates, **options)["changed"]
    # Each goes on revoking what it issued.
    new = _issue(run_module, options, "ada")
    assert _x509.is_signed_by(new, present)
    run_module(client_certificate, user="ada", directory=options["directory"], state="revoked")
    assert _revoked(options) == [{new.serial_number}, {old.serial_number}]
    result = run_module(certificates, **options, rotate=["previous"])
    assert {name for _, name in _names(result)} == {
        "client-ca-previous.key",
        "client-ca.pem",
        "client-crl.pem",
    }
    assert "client-ca-previous.key" not in _files(options)
    assert _revoked(options) == [{new.serial_number}]
    assert not run_module(certificates, **options)["changed"]


@pytest.mark.parametrize("rotate", [[], ["ca"]])
def test_a_deployment_of_before_keeps_its_client_certificates(
    run_module: Any, options: dict[str, Any], rotate: list[str]
) -> None:
    """Its CA of servers issued them; the same file named whose certificates were accepted."""
    run_module(certificates, **options)
    directory = Path(options["directory"])
    ca = _x509.load((directory / "ca.pem").read_bytes(), (directory / "ca.key").read_bytes())
    old = _x509.issue_client(ca, "ada", 20, "ec")
    (directory / "clients").mkdir()
    (directory / "clients/ada.pem").write_bytes(old.certificate_pem + old.key_pem)
    for name in ("client-ca.key", "client-crl.pem"):
        (directory / name).unlink()
    (directory / "client-ca.pem").write_bytes(ca.certificate_pem)
    run_module(certificates, **options, rotate=rotate)
    files = _files(options)
    assert _x509.load_certificates(files["client-ca.pem"])[1:] == [ca.certificate]
    assert files["client-ca-previous.key"] == ca.key_pem
    assert _revoked(options) == [set(), set()]
    assert not run_module(certificates, **options)["changed"]
    # They can be revoked as any other.
    run_module(client_certificate, user="ada", directory=options["directory"], state="revoked")
    assert _revoked(options) == [set(), {old.certificate.serial_number}]


def test_an_interrupted_rotation_loses_no_ca(run_module: Any, options: dict[str, Any]) -> None:
    run_module(certificates, **options)
    before = _files(options)
    run_module(certificates, **options, rotate=["client-ca"])
    # As if it had ended before the file that all read.
    (Path(options["directory"]) / "client-ca.pem").write_bytes(before["client-ca.pem"])
    run_module(certificates, **options)
    files = _files(options)
    assert [_x509.pem(found) for found in _x509.load_certificates(files["client-ca.pem"])][1:] == [
        before["client-ca.pem"]
    ]
    assert files["client-ca-previous.key"] == before["client-ca.key"]


def test_a_damaged_register_is_told(run_module: Any, options: dict[str, Any]) -> None:
    run_module(certificates, **options)
    _issue(run_module, options, "ada")
    (Path(options["directory"]) / "clients/issued.json").write_text("{")
    result = run_module(client_certificate, user="ada", directory=options["directory"], state="revoked")
    assert "issued.json cannot be read" in result["msg"]
