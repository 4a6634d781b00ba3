"""Which tokens of the issuer are accepted, and for how long."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import jwt
import pytest
import requests
from deployment import Deployment, playbook


def token(stack: Deployment, user: str, kind: str | None, **changes: Any) -> str:
    """Return a token of some type that the deployment's issuer could have issued."""
    known = requests.get(f"{stack.url}/iam/jwks", verify=stack.ca, timeout=30).json()["keys"][0]
    now = int(time.time())
    claims = {
        "iss": f"{stack.url}/iam",
        "sub": str(uuid.uuid5(uuid.NAMESPACE_URL, user)),
        "aud": stack.url,
        "iat": now,
        "exp": now + 600,
        "preferred_username": user,
    }
    headers = {"kid": known["kid"], "typ": kind}
    return jwt.encode(claims | changes, stack.secrets["iam_signing_key"], "RS256", headers=headers)


def statuses(stack: Deployment, anonymous: requests.Session, given: str) -> set[int]:
    """Return each service's response to a token."""
    headers = {"Authorization": f"Bearer {given}"}
    paths = ("/src/cavern/nodes/?limit=0", "/src/posix-mapper/uid?user=x", "/prepare-data/v1/tasks")
    return {anonymous.get(stack.url + path, headers=headers, timeout=30).status_code for path in paths}


@pytest.mark.parametrize("kind", ["at+jwt", "application/at+jwt", "JWT", None])
def test_access_tokens_are_accepted(
    stack: Deployment, anonymous: requests.Session, user: str, kind: str | None
) -> None:
    assert statuses(stack, anonymous, token(stack, user, kind)) == {200}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("JWT", {"nonce": "n"}),
        ("JWT", {"at_hash": "h"}),
        (None, {"at_hash": "h", "nonce": "n"}),
        ("JWT", {"typ": "ID"}),
        ("JWT", {"typ": "Refresh"}),
        ("logout+jwt", {"events": {}}),
        ("dpop+jwt", {}),
    ],
)
def test_other_tokens_are_rejected(
    stack: Deployment, anonymous: requests.Session, user: str, kind: str | None, changes: dict[str, Any]
) -> None:
    assert statuses(stack, anonymous, token(stack, user, kind, **changes)) == {401}


def test_a_rotated_key_is_rejected_immediately(
    stack: Deployment, anonymous: requests.Session, user: str
) -> None:
    old = token(stack, user, "at+jwt")
    assert statuses(stack, anonymous, old) == {200}
    playbook("site.yml", "-e", json.dumps({"secrets_rotate": ["iam_signing_key"]}))
    assert statuses(stack, anonymous, old) == {401}
    stack.forget()
    assert statuses(stack, anonymous, token(stack, user, "at+jwt")) == {200}
