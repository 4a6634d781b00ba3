"""Whatever is sent to the API: an answer that says what is wrong, never a 500, and a ledger that can be read."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from core_here import core
from hypothesis import example, given
from hypothesis import strategies as st
from voservice.testing import database_url, postgres

__all__ = ["database_url", "postgres"]

HOST = "receiver.example"
DID = "testing:prepare_data_test.txt"
HOSTILE = st.sampled_from(
    ["\x00", "a\x00b", "\ud800", "..", "/", "", " ", "é", "%2e%2e", "x" * 5000, "\U0001f600"]
)
TEXT = st.one_of(st.text(max_size=40), HOSTILE)
NUMBER = st.one_of(st.integers(), st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**400]), st.floats())
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBER, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)
DIDS = st.one_of(st.just(DID), st.builds("{}:{}".format, TEXT, TEXT), JSON)
FILE = st.fixed_dictionaries(
    {"did": DIDS},
    optional={
        "path": JSON,
        "destination": TEXT,
        "size": NUMBER,
        "md5": st.one_of(st.just("a" * 32), JSON),
        "adler32": st.one_of(st.just("11e60398"), JSON),
    },
)
CALLBACK = st.one_of(TEXT, st.builds((f"https://{HOST}" + "{}").format, TEXT), st.just("http://[::1"))
TASK = st.fixed_dictionaries(
    {"files": st.lists(FILE, max_size=3)},
    optional={"destination": TEXT, "approach": TEXT, "callback": CALLBACK, "lifetime": NUMBER},
)
ROW = st.tuples(DIDS, st.one_of(st.just("testing/84/1c/prepare_data_test.txt"), JSON), st.one_of(TEXT, JSON))
KEYS = st.one_of(st.none(), st.binary(max_size=20), st.just(b"k" * 5000), st.just("é".encode()))


@pytest.fixture
async def client(database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """Requests of ada."""
    settings = {
        "PREPARER_CALLBACK_HOSTS": HOST,
        "PREPARER_MAX_ACTIVE": "1000000",
        "PREPARER_MAX_RATE": "1000000",
    }
    async with core(database_url, "ada", **settings) as (_, client):
        yield client


def check(answer: httpx.Response) -> None:
    """A success, or a problem document that says what to do."""
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        problem = answer.json()
        assert answer.headers["content-type"] == "application/problem+json"
        assert problem["status"] == answer.status_code
        assert problem["detail"]


@given(rows=st.one_of(st.lists(ROW, max_size=3), JSON), key=KEYS)
@example(rows=[["s:\ud800", None, "."]], key=None)
async def test_any_seed_request(client: httpx.AsyncClient, rows: Any, key: bytes | None) -> None:
    headers = {} if key is None else {"Idempotency-Key": key}
    answer = await client.post("/", content=json.dumps(rows), headers=headers)
    check(answer)
    if answer.status_code == 200:
        assert (await client.get(f"/{answer.json()['task_id']}")).json() == {
            "status": "PENDING",
            "info": None,
        }


@given(body=st.one_of(TASK, JSON), key=KEYS)
@example(body={"files": [{"did": DID, "size": 2**63}]}, key=None)
@example(body={"files": [{"did": DID}], "lifetime": 2**31}, key=None)
@example(body={"files": [{"did": DID}], "lifetime": 10**30}, key=None)
@example(body={"files": [{"did": DID}], "callback": "http://["}, key=None)
@example(body={"files": [{"did": DID}], "callback": f"http://{HOST}/\x00"}, key=None)
@example(body={"files": [{"did": DID}], "callback": f"http://{HOST}:x/"}, key=None)
async def test_any_task(client: httpx.AsyncClient, body: Any, key: bytes | None) -> None:
    headers = {} if key is None else {"Idempotency-Key": key}
    answer = await client.post("/v1/tasks", content=json.dumps(body), headers=headers)
    check(answer)
    if answer.status_code in (200, 201):
        where = f"/v1/tasks/{answer.json()['id']}"
        files = (await client.get(f"{where}/files")).json()["files"]
        assert sorted(f["did"] for f in files) == sorted(f["did"] for f in body["files"])
        # 200 is a task that was there, perhaps cancelled by an earlier example.
        cancelled = await client.post(f"{where}/cancel")
        assert cancelled.status_code == 202 or answer.status_code == 200, cancelled.text


@given(body=st.one_of(st.binary(max_size=60), st.sampled_from([b"[" * 100_000, b"1" * 5000, b"\xff\xfe[]"])))
async def test_any_bytes(client: httpx.AsyncClient, body: bytes) -> None:
    for path in ("/", "/v1/tasks", "/v1/estimate"):
        answer = await client.post(path, content=body)
        assert 400 <= answer.status_code < 500, answer.text
        check(answer)


WORDS = st.one_of(
    TEXT, NUMBER.map(str), st.sampled_from(["QUEUED", "2026-01-01", "0001-01-01T00:00:00+23:59"])
)


@given(
    path=st.sampled_from(["/v1/tasks", "/v1/tasks/{}", "/v1/tasks/{}/files", "/{}"]),
    task=TEXT,
    query=st.dictionaries(st.sampled_from(["state", "limit", "before", "after"]), WORDS, max_size=3),
)
async def test_any_question(client: httpx.AsyncClient, path: str, task: str, query: dict[str, str]) -> None:
    where = path.format(quote(task.encode("utf-8", "replace"), safe=""))
    asked = {key: value.encode("utf-8", "replace").decode() for key, value in query.items()}
    check(await client.get(where, params=asked))


async def test_questions_about_a_task(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/tasks", json={"files": [{"did": DID}]})
    where = f"/v1/tasks/{answer.json()['id']}/files"
    for after in ("-2", str(2**31), str(2**63), "x"):
        refused = await client.get(where, params={"after": after})
        assert refused.status_code == 422, refused.text
        check(refused)
