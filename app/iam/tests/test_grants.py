"""The rules of the token endpoint, without HTTP."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from iam.models.directory import CLIENT_CREDENTIALS, RESOURCE_OWNER
from iam.models.errors import OAuthError
from iam.services.authorizations import Authorizations
from iam.services.grants import Grants, TokenRequest
from iam.services.signer import Signer
from pydantic import SecretStr
from voservice.auth import EXCHANGE

EVERYTHING = [RESOURCE_OWNER, CLIENT_CREDENTIALS, EXCHANGE]


@pytest.fixture(scope="module")
def grants() -> Grants:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    settings: Any = SimpleNamespace(
        iam_default_lifetime=60,
        iam_max_lifetime=120,
        iam_user_password=SecretStr("letmein"),
        oidc_audiences=["https://vo.example"],
    )
    directory: Any = SimpleNamespace(groups=lambda name: [f"{name}s"])
    return Grants(settings, directory, Signer("https://vo.example/iam", key.decode()), Authorizations(60))


def client(*grants: str, username: str | None = None) -> Any:
    return SimpleNamespace(client_id="cli", grants=grants or EVERYTHING, username=username)


def password(**asked: Any) -> TokenRequest:
    values = {"grant_type": RESOURCE_OWNER, "username": "ada", "password": "letmein", "scope": "groups"}
    return TokenRequest(**(values | asked))


def test_a_token_lives_as_long_as_is_asked_for(grants: Grants) -> None:
    assert grants.issue(client(), password())["expires_in"] == 60
    body = grants.issue(client(), password(expires_in="120"))
    found = grants.introspect(body["access_token"])
    assert (found["active"], found["exp"] - found["iat"], found["groups"]) == (True, 120, ["adas"])
    for wrong in ("121", "0", "-1", "1e2", "9" * 19):
        with pytest.raises(OAuthError, match="expires_in"):
            grants.issue(client(), password(expires_in=wrong))


def test_an_exchange_keeps_scopes_within_those_of_the_token(grants: Grants) -> None:
    given = grants.issue(client(), password(scope="openid"))["access_token"]
    kind = "urn:ietf:params:oauth:token-type:access_token"
    asked = TokenRequest(
        grant_type=EXCHANGE, subject_token=given, subject_token_type=kind, scope="openid groups"
    )
    body = grants.issue(client(), asked)
    assert (body["scope"], body["issued_token_type"]) == ("openid", kind)
    assert "groups" not in grants.introspect(body["access_token"])


@pytest.mark.parametrize(
    ("granted", "asked", "error"),
    [
        ([CLIENT_CREDENTIALS], password(), "unauthorized_client"),
        ([CLIENT_CREDENTIALS], TokenRequest(grant_type=CLIENT_CREDENTIALS), "unauthorized_client"),
        (EVERYTHING, TokenRequest(grant_type="implicit"), "unsupported_grant_type"),
        (EVERYTHING, password(password="x"), "invalid_grant"),
        (EVERYTHING, password(username="a b"), "invalid_request"),
        (EVERYTHING, TokenRequest(grant_type=EXCHANGE, subject_token="x"), "invalid_request"),
    ],
)
def test_refused(grants: Grants, granted: list[str], asked: TokenRequest, error: str) -> None:
    with pytest.raises(OAuthError) as refused:
        grants.issue(client(*granted), asked)
    assert refused.value.error == error


def test_other_tokens_are_not_active(grants: Grants) -> None:
    assert grants.introspect("x") == {"active": False}
