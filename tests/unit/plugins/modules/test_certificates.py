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
    "client-ca.pem": 0o644,
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
    return {path.name: path.read_bytes() for path in Path(options["directory"]).iterdir()}


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
    assert not set(before.values()) & {
        content for name, content in after.items() if name != "ca-previous.pem"
    }
    assert not run_module(certificates, **options)["changed"]


def test_ca_before_the_present_one_stays_trusted_until_told(run_module: Any, options: dict[str, Any]) -> None:
    run_module(certificates, **options)
    first = _files(options)["ca.pem"]
    run_module(certificates, **options, rotate=["ca"])
    files = _files(options)
    previous, cross = _x509.load_certificates(files["ca-previous.pem"])
    assert _x509.pem(previous) == first
    assert files["haproxy.pem"] == files["server.pem"] + _x509.pem(cross) + files["server.key"]
    assert files["client-ca.pem"] == files["ca.pem"] + first
    assert files["ca-bundle.pem"].endswith(files["ca.pem"] + first)
    assert not run_module(certificates, **options)["changed"]
    result = run_module(certificates, **options, rotate=["previous"])
    changed = ["ca-previous.pem", "haproxy.pem", "client-ca.pem", "ca-bundle.pem"]
    assert _names(result) == [("file", name) for name in changed]
    files = _files(options)
    assert "ca-previous.pem" not in files
    assert files["haproxy.pem"] == files["server.pem"] + files["server.key"]
    assert files["client-ca.pem"] == files["ca.pem"]
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


def test_missing_host_bundle_is_a_warning(run_module: Any, options: dict[str, Any]) -> None:
    options["host_bundle"] += ".missing"
    result = run_module(certificates, **options)
    assert "holds our CA alone" in str(result["warnings"])
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
    assert pair.certificate.subject.rfc4514_string() == "CN=ada"
    assert result["certificate"]["fingerprint"] == _x509.fingerprint(pair.certificate)
    assert "PRIVATE" not in str(result)
    assert not run_module(client_certificate, **wanted)["changed"]
    assert run_module(client_certificate, **wanted, force=True)["reasons"] == ["asked for"]
    run_module(certificates, **options, rotate=["ca"])
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
