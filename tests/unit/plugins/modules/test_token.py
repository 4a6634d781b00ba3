# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from ansible_collections.skasrc.cavern.plugins.modules import token

OPTIONS = {"username": "ada", "password": "hush", "client_id": "cli", "client_secret": "s:cret"}


@pytest.fixture
def issuer(service: Any) -> Any:
    url = f"{service.url}/iam"
    metadata = service.document({"issuer": url, "token_endpoint": f"{url}/token"})
    service.on("GET", "/iam/.well-known/openid-configuration", metadata)
    granted = {"access_token": "a.b.c", "token_type": "Bearer", "expires_in": 60}
    service.on("POST", "/iam/token", service.document(granted))
    return service


def test_password_grant(run_module: Any, issuer: Any) -> None:
    result = run_module(token, url=issuer.url, expires_in=60, scope=["openid", "profile"], **OPTIONS)
    assert (result["token"], result["expires_in"], result["changed"]) == ("a.b.c", 60, False)
    request = issuer.requests[-1]
    assert request.headers["authorization"] == "Basic " + b64encode(b"cli:s:cret").decode()
    assert parse_qs(request.body.decode()) == {
        "grant_type": ["password"],
        "username": ["ada"],
        "password": ["hush"],
        "expires_in": ["60"],
        "scope": ["openid profile"],
    }


def test_token_is_given_in_check_mode(run_module: Any, issuer: Any) -> None:
    assert run_module(token, check=True, issuer=f"{issuer.url}/iam", **OPTIONS)["token"] == "a.b.c"


def test_other_grants(run_module: Any, issuer: Any) -> None:
    client = {"client_id": "cli", "client_secret": "s:cret", "url": issuer.url}
    assert run_module(token, grant="client_credentials", **client)["token"]
    assert b"grant_type=client_credentials" in issuer.requests[-1].body
    assert run_module(token, grant="token_exchange", subject_token="old", audience="x", **client)["token"]
    fields = parse_qs(issuer.requests[-1].body.decode())
    assert fields["grant_type"] == ["urn:ietf:params:oauth:grant-type:token-exchange"]
    assert (fields["subject_token"], fields["audience"]) == (["old"], ["x"])
    assert "missing: subject_token" in run_module(token, grant="token_exchange", **client)["msg"]


def test_refusal_says_why_and_holds_no_secret(run_module: Any, issuer: Any) -> None:
    refusal = {"error": "invalid_grant", "error_description": "wrong password"}
    issuer.on("POST", "/iam/token", issuer.document(refusal, 400))
    result = run_module(token, url=issuer.url, **OPTIONS)
    assert result["failed"]
    assert result["msg"].endswith("/iam/token answered 400: wrong password")
    assert "hush" not in str(result)
    assert "s:cret" not in str(result)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"issuer": "https://other", "token_endpoint": "https://other/token"}, "metadata of 'https://other'"),
        ({"issuer": None}, "names no token_endpoint"),
        (["nonsense"], "names no token_endpoint"),
    ],
)
def test_metadata_must_be_the_issuer_s(run_module: Any, issuer: Any, metadata: Any, message: str) -> None:
    issuer.on("GET", "/iam/.well-known/openid-configuration", issuer.document(metadata))
    assert message in run_module(token, url=issuer.url, **OPTIONS)["msg"]
    assert not issuer.asked("POST", "/iam/token")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"issuer": "iam.example"}, "issuer: 'iam.example' is no http(s) URL"),
        ({"issuer": "https://a:b@iam.example"}, "issuer: credentials do not belong into a URL"),
        ({"issuer": "https://iam.example", "ca_path": "/nonexistent"}, "ca_path: /nonexistent: No such file"),
        ({"issuer": "https://iam.example", "expires_in": 0}, "expires_in: 0 is no life of a token"),
        ({}, "one of the following is required: issuer, url"),
    ],
)
def test_bad_options(run_module: Any, options: dict[str, Any], message: str) -> None:
    assert message in run_module(token, **OPTIONS, **options)["msg"]


def test_ca_file_must_hold_certificates(run_module: Any, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    result = run_module(token, issuer="https://iam.example", ca_path=str(tmp_path / "ca.pem"), **OPTIONS)
    assert result["msg"].startswith(f"ca_path: {tmp_path / 'ca.pem'}")
