"""Extreme input gets a short response that names the error; no service fails."""

from __future__ import annotations

import random
import string

import pytest
import requests
from deployment import Deployment

RANDOM = random.Random(7)
KEY = "".join(RANDOM.choices(string.ascii_letters + string.digits, k=6000))
TASK = {"files": [{"did": "testing:prepare_data_test.txt"}]}
JSON = {"Content-Type": "application/json"}
DIGITS = b"7" * 5_000_000


def refused(answer: requests.Response) -> None:
    assert 400 <= answer.status_code < 500, answer.text[:2000]
    assert len(answer.content) < 50_000


@pytest.mark.parametrize("path", ["", "v1/tasks"])
def test_keys_of_requests_are_limited_in_length(stack: Deployment, http: requests.Session, path: str) -> None:
    body = TASK if path else []
    answer = http.post(
        f"{stack.url}/prepare-data/{path}", json=body, headers={"Idempotency-Key": KEY}, timeout=60
    )
    assert answer.status_code == 400
    assert "Idempotency-Key" in answer.json()["detail"]
    logged = stack.container("ska-src-local-data-preparer-core").logs().decode()
    assert KEY[:100] not in logged


@pytest.mark.parametrize(
    "content",
    [
        b'{"files": [{"did": "testing:f", "size": ' + DIGITS + b"}]}",
        b'{"files": [{"did": "testing:f", "size": 1e' + DIGITS + b"}]}",
        b'{"files": [{"did": "testing:f", "size": NaN}]}',
        DIGITS,
        b"[" * 5_000_000,
        b"[" + b"[]," * 5_000_000 + b"[]]",
        b'[["' + b"a" * 5_000_000 + b'", "b", "c"]]',
        b'{"' + b"a" * 5_000_000 + b'": 1}',
    ],
    ids=lambda content: f"{content[:40].decode()}-{len(content)}",
)
def test_malformed_staging_requests_are_rejected(
    stack: Deployment, http: requests.Session, content: bytes
) -> None:
    for path in ("", "v1/tasks", "v1/estimate"):
        url = f"{stack.url}/prepare-data/{path}"
        refused(http.post(url, data=content, headers=JSON, timeout=120))
    assert http.get(f"{stack.url}/prepare-data/health", timeout=30).status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        b'{"rows": [{"source": "http://a", "target": "vos://a~b/c", "size": ' + DIGITS + b"}]}",
        b'{"rows": [{"source": "http://a", "target": "vos://a~b/c", "size": 1e99999999999999999999}]}',
        b'{"concurrency": ' + b"7" * 5000 + b', "rows": []}',
        b'{"rows": [{' + b'"x": 1, ' * 1_000_000,
        b'{"rows": [{"source": "' + b"a" * 5_000_000 + b'"}]}',
        b"[" * 5_000_000,
    ],
    ids=lambda content: f"{content[:40].decode()}-{len(content)}",
)
def test_malformed_bulk_pulls_are_rejected(stack: Deployment, http: requests.Session, content: bytes) -> None:
    refused(http.post(f"{stack.url}/src/cavern/bulk-pull", data=content, headers=JSON, timeout=120))


@pytest.mark.parametrize("lifetime", ["9" * 5000, "-1", "1e9", "٣"])
def test_the_issuer_rejects_extreme_lifetimes(
    stack: Deployment, anonymous: requests.Session, lifetime: str
) -> None:
    form = {
        "grant_type": "password",
        "username": "ada",
        "password": stack.secrets["iam_user_password"],
        "expires_in": lifetime,
    }
    client = ("cavern-cli", stack.secrets["iam_client_cavern_cli"])
    refused(anonymous.post(f"{stack.url}/iam/token", data=form, auth=client, timeout=30))


def test_the_issuer_limits_the_size_of_bodies(stack: Deployment, anonymous: requests.Session) -> None:
    answer = anonymous.post(f"{stack.url}/iam/token", data={"grant_type": "x" * 1_000_000}, timeout=30)
    assert answer.status_code == 413


def test_names_with_control_characters_are_rejected(
    stack: Deployment, http: requests.Session, user: str
) -> None:
    for name in ("%1B%5B2J", "%C2%9B2J", "a%C2%85b", "%7F"):
        answer = http.put(f"{stack.url}/src/cavern/files/home/{user}/{name}", data=b"x", timeout=30)
        assert answer.status_code in (400, 404), answer.text
    http.put(
        f"{stack.url}/src/cavern/nodes/home/{user}",
        data='<vos:node xmlns:vos="http://www.ivoa.net/xml/VOSpace/v2.0" xsi:type="vos:ContainerNode"'
        ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"/>',
        headers={"Content-Type": "text/xml"},
        timeout=30,
    ).raise_for_status()
    for name in ("%1B%5B2J", "%C2%9B2J", "a%C2%85b", "%7F"):
        answer = http.put(f"{stack.url}/src/cavern/files/home/{user}/{name}", data=b"x", timeout=30)
        assert answer.status_code == 400, answer.text
