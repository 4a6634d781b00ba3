"""prepare-data on the deployed stack: what is staged, what is refused, and what is told about every file."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import uuid
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from deployment import Deployment
from prepare_data_client.did import DID
from tasks import FINAL
from vospace_client.terms import CORE

Place = Callable[[str, bytes], Path]
AREA = (
    '<vos:node xmlns:vos="http://www.ivoa.net/xml/VOSpace/v2.0" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
    ' xsi:type="vos:ContainerNode" uri="vos://{authority}~cavern/home/{user}"><vos:properties>{properties}'
    "</vos:properties><vos:nodes/></vos:node>"
)


class Files:
    """A set of files on the RSE, as requests name them."""

    def __init__(self, rse: Place, count: int, size: int = 100) -> None:
        """Place *count* files of *size* bytes, each different."""
        self.run = uuid.uuid4().hex[:8]
        self.content = {}
        for number in range(count):
            did = f"testing:{self.run}_{number:05d}.dat"
            content = (f"{did} ".encode() * (size // 10 + 1))[:size]
            rse(DID.parse(did).path(), content)
            self.content[did] = content

    def request(self, **fields: Any) -> dict[str, Any]:
        """Body of a version 1 request for all of them."""
        return {"files": [{"did": did} for did in self.content], "destination": f"./{self.run}", **fields}

    def legacy(self) -> list[list[str]]:
        """Body of the legacy call."""
        return [[did, DID.parse(did).path(), f"./{self.run}"] for did in self.content]


@pytest.fixture
def api(stack: Deployment) -> str:
    return f"{stack.url}/prepare-data"


def follow(http: requests.Session, api: str, task: str, seconds: float = 240) -> dict[str, Any]:
    """The task once it is final."""
    deadline = time.monotonic() + seconds
    while True:
        document: dict[str, Any] = http.get(f"{api}/v1/tasks/{task}", timeout=60).json()
        if document["state"] in FINAL:
            return document
        assert time.monotonic() < deadline, document
        time.sleep(0.3)


def submit(http: requests.Session, api: str, body: Any, status: int = 201, **headers: str) -> dict[str, Any]:
    answer = http.post(f"{api}/v1/tasks", json=body, headers=headers, timeout=120)
    assert answer.status_code == status, answer.text
    document: dict[str, Any] = answer.json()
    return document


def results(http: requests.Session, api: str, task: str) -> list[dict[str, Any]]:
    """Every file of a task, page by page."""
    files: list[dict[str, Any]] = []
    after: int | None = -1
    while after is not None:
        page = http.get(
            f"{api}/v1/tasks/{task}/files", params={"after": after, "limit": 5000}, timeout=60
        ).json()
        files += page["files"]
        after = page["next"]
    return files


@pytest.mark.parametrize("count", [1, 1000])
def test_every_file_arrives_whole(
    stack: Deployment, http: requests.Session, api: str, user: str, rse: Place, count: int
) -> None:
    files = Files(rse, count)
    task = follow(http, api, submit(http, api, files.request())["id"])
    assert task["state"] == "SUCCEEDED", task
    assert task["files_done"] == count
    assert task["bytes_done"] == sum(map(len, files.content.values()))
    area = stack.data / "cavern_data/cavern/home" / user / files.run
    for did, content in files.content.items():
        assert (area / did.partition(":")[2]).read_bytes() == content
    by_did = {file["did"]: file for file in results(http, api, task["id"])}
    for did, content in files.content.items():
        assert by_did[did]["md5"] == hashlib.md5(content, usedforsecurity=False).hexdigest()
        assert by_did[did]["adler32"] == f"{zlib.adler32(content):08x}"
    receipt = json.loads(stack.receipt(task["id"]).read_text())
    assert receipt["state"] == "SUCCEEDED"
    assert len(receipt["results"]) == count


@pytest.mark.slow
def test_twenty_thousand_files_in_one_request(http: requests.Session, api: str, rse: Place) -> None:
    files = Files(rse, 20_000, size=20)
    task = follow(http, api, submit(http, api, files.request())["id"], seconds=280)
    assert (task["state"], task["files_done"]) == ("SUCCEEDED", 20_000), task


def test_a_second_request_finds_the_files_present(http: requests.Session, api: str, rse: Place) -> None:
    files = Files(rse, 3)
    body = files.request()
    for entry in body["files"]:
        entry["md5"] = hashlib.md5(files.content[entry["did"]], usedforsecurity=False).hexdigest()
        entry["size"] = len(files.content[entry["did"]])
    first = follow(http, api, submit(http, api, body)["id"])
    second = follow(http, api, submit(http, api, body)["id"])
    assert first["id"] != second["id"]
    assert {file["state"] for file in results(http, api, second["id"])} == {"PRESENT"}


def test_partial_failure_and_retry(
    stack: Deployment, http: requests.Session, api: str, user: str, rse: Place
) -> None:
    files = Files(rse, 4)
    missing = f"testing:{files.run}_missing.dat"
    wrong = next(iter(files.content))
    body = files.request()
    body["files"][0]["md5"] = "0" * 32
    body["files"].append({"did": missing})
    task = follow(http, api, submit(http, api, body)["id"])
    assert task["state"] == "FAILED"
    assert "3 of 5 files staged" in task["info"]
    by_did = {file["did"]: file for file in results(http, api, task["id"])}
    assert (by_did[missing]["state"], by_did[missing]["fault"]) == ("FAILED", "SourceNotFound")
    assert (by_did[wrong]["state"], by_did[wrong]["fault"]) == ("FAILED", "ChecksumMismatch")
    area = stack.data / "cavern_data/cavern/home" / user / files.run
    assert sorted(path.name for path in area.iterdir()) == sorted(
        did.partition(":")[2] for did in files.content if did != wrong
    )
    legacy = http.get(f"{api}/{task['id']}", timeout=30).json()
    assert legacy["status"] == "FAILURE"
    assert "3 of 5" in legacy["info"]

    rse(DID.parse(missing).path(), b"here after all")
    assert http.post(f"{api}/v1/tasks/{task['id']}/retry", timeout=30).status_code == 202
    again = follow(http, api, task["id"])
    assert again["files_done"] == 4
    assert (area / missing.partition(":")[2]).read_bytes() == b"here after all"


def test_the_same_request_under_way_is_one_task(
    stack: Deployment, http: requests.Session, api: str, rse: Place
) -> None:
    """In whichever order it names its files, and by the seed's call as well."""
    files = Files(rse, 100, size=20)
    body = files.request()
    with stack.paused("rse-web"):  # so that it is under way for as long as the test asks
        first = submit(http, api, body)["id"]
        body["files"].reverse()
        assert submit(http, api, body, 200)["id"] == first
        legacy = http.post(f"{api}/", json=files.legacy(), timeout=60)
        assert legacy.json() == {"task_id": first}
        assert submit(http, api, body | {"destination": "./elsewhere"})["id"] != first
    assert follow(http, api, first)["files_done"] == 100
    assert [task["files"] for task in http.get(f"{api}/v1/tasks", timeout=30).json()["tasks"]] == [100, 100]


def test_idempotency_key(http: requests.Session, api: str, rse: Place) -> None:
    files = Files(rse, 1)
    key = {"Idempotency-Key": uuid.uuid4().hex}
    first = submit(http, api, files.request(), 201, **key)
    follow(http, api, first["id"])
    assert submit(http, api, files.request(), 200, **key)["id"] == first["id"]
    other = submit(http, api, Files(rse, 1).request(), 409, **key)
    assert "Idempotency-Key" in other["detail"]


def test_cancel_while_running(
    stack: Deployment, http: requests.Session, user: str, api: str, rse: Place
) -> None:
    """The transfers underneath end too, while the RSE keeps them waiting; what it sends later is not taken."""
    files = Files(rse, 100, size=20)
    with stack.paused("rse-web"):
        task = submit(http, api, files.request())["id"]
        deadline = time.monotonic() + 60
        while http.get(f"{api}/v1/tasks/{task}", timeout=30).json()["state"] == "QUEUED":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert http.post(f"{api}/v1/tasks/{task}/cancel", timeout=30).status_code == 202
        ended = follow(http, api, task)
    assert (ended["state"], ended["files_done"]) == ("CANCELLED", 0)
    assert {file["state"] for file in results(http, api, task)} == {"CANCELLED"}
    area = stack.data / "cavern_data/cavern/home" / user / files.run
    assert not area.exists() or not list(area.iterdir())


@pytest.mark.slow
def test_two_hundred_requests_at_once_from_twenty_users(stack: Deployment, api: str, rse: Place) -> None:
    count = 200
    files = Files(rse, count)
    sessions = [stack.session(f"crowd{uuid.uuid4().hex[:8]}") for _ in range(20)]
    start = threading.Barrier(count)

    def one(number: int) -> tuple[str, str]:
        session = sessions[number % len(sessions)]
        did = list(files.content)[number]
        body = [[did, DID.parse(did).path(), f"./{files.run}"]]
        start.wait(60)
        answer = session.post(f"{api}/", json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        task: str = answer.json()["task_id"]
        return task, str(follow(session, api, task)["state"])

    with ThreadPoolExecutor(count) as pool:
        ended = list(pool.map(one, range(count)))
    assert len({task for task, _ in ended}) == count
    assert [state for _, state in ended] == ["SUCCEEDED"] * count
    for session in sessions:
        mine = session.get(f"{api}/v1/tasks", timeout=30).json()["tasks"]
        assert len(mine) == count / len(sessions)


def test_tasks_are_their_owners(stack: Deployment, http: requests.Session, api: str, rse: Place) -> None:
    task = submit(http, api, Files(rse, 1).request())["id"]
    with stack.session("somebody_else") as other:
        for method, path in [("GET", ""), ("GET", "/files"), ("POST", "/cancel"), ("POST", "/retry")]:
            answer = other.request(method, f"{api}/v1/tasks/{task}{path}", timeout=30)
            assert answer.status_code == 404, (method, path)
        assert other.get(f"{api}/{task}", timeout=30).status_code == 404
        assert task not in [entry["id"] for entry in other.get(f"{api}/v1/tasks", timeout=30).json()["tasks"]]
    assert task in [entry["id"] for entry in http.get(f"{api}/v1/tasks", timeout=30).json()["tasks"]]


def test_events_tell_of_progress_and_end(http: requests.Session, api: str, rse: Place) -> None:
    task = submit(http, api, Files(rse, 50).request())["id"]
    names, last = [], {}
    with http.get(f"{api}/v1/tasks/{task}/events", stream=True, timeout=120) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        for line in answer.iter_lines(decode_unicode=True):
            if line.startswith("event: "):
                names.append(line.removeprefix("event: "))
            elif line.startswith("data: "):
                last = json.loads(line.removeprefix("data: "))
    assert names[-1] == "final"
    assert last["state"] == "SUCCEEDED"


def test_estimate(http: requests.Session, api: str, rse: Place) -> None:
    files = Files(rse, 3, size=1000)
    body = files.request()
    body["files"].append({"did": f"testing:{files.run}_nowhere"})
    estimate = http.post(f"{api}/v1/estimate", json=body, timeout=60).json()
    assert (estimate["files"], estimate["bytes"]) == (4, 3000)
    assert estimate["missing"] == [f"testing:{files.run}_nowhere"]


def area_document(stack: Deployment, user: str, **properties: Any) -> str:
    """Document of a user's area with these properties of the standard."""
    entries = "".join(
        f'<vos:property uri="{CORE}{name}">{value}</vos:property>' for name, value in properties.items()
    )
    return AREA.format(authority=stack.authority, user=user, properties=entries)


@pytest.mark.parametrize("told", [True, False], ids=["sizes of the request", "sizes of the RSE"])
def test_a_set_of_files_that_exceeds_the_quota_is_refused_as_a_whole(
    stack: Deployment, http: requests.Session, api: str, user: str, rse: Place, told: bool
) -> None:
    """Though each of its files would fit; what is there already needs no room, and what fits is staged."""
    size = 100_000
    files = Files(rse, 3, size=size)
    body = files.request()
    if told:
        for entry in body["files"]:
            entry["size"] = size
    area = f"{stack.url}/src/cavern/nodes/home/{user}"
    directory = stack.data / "cavern_data/cavern/home" / user / files.run
    with stack.session("cavernadmin") as administrator:
        made = administrator.put(
            area, data=area_document(stack, user, creator=user, quota=5 * size // 2), timeout=30
        )
        assert made.status_code == 201, made.text

        task = follow(http, api, submit(http, api, body)["id"])
        assert (task["state"], task["files_done"], task["files_failed"]) == ("FAILED", 0, 3), task
        assert f"the files need {3 * size} bytes" in task["info"]
        refused = results(http, api, task["id"])
        assert [(file["state"], file["fault"]) for file in refused] == [("FAILED", "QuotaExceeded")] * 3
        assert not directory.exists()

        fitting = follow(http, api, submit(http, api, body | {"files": body["files"][:2]})["id"])
        assert (fitting["state"], fitting["files_done"]) == ("SUCCEEDED", 2), fitting
        # There is room for half a file, and two are there: one is too much.
        again = follow(http, api, submit(http, api, body)["id"])
        assert (again["state"], again["files_done"]) == ("FAILED", 0), again
        assert {file["fault"] for file in results(http, api, again["id"])} == {"QuotaExceeded"}
        assert len(list(directory.iterdir())) == 2

        more = administrator.post(area, data=area_document(stack, user, quota=4 * size), timeout=30)
        assert more.status_code == 200, more.text
    assert http.post(f"{api}/v1/tasks/{again['id']}/retry", timeout=30).status_code == 202
    staged = follow(http, api, again["id"])
    assert (staged["state"], staged["files_done"]) == ("SUCCEEDED", 3), staged
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == {
        did.partition(":")[2]: content for did, content in files.content.items()
    }


@pytest.mark.parametrize("end", ["its own", "released"])
def test_the_end_of_a_lifetime_removes_exactly_the_staged_copies(
    stack: Deployment, http: requests.Session, api: str, user: str, rse: Place, end: str
) -> None:
    """Not what was there before, not what the user put there, and not a copy that the user has changed since."""
    files = Files(rse, 4)
    before, changed, *copies = files.content
    body = files.request(lifetime=3600)
    for entry in body["files"]:
        entry["md5"] = hashlib.md5(files.content[entry["did"]], usedforsecurity=False).hexdigest()
        entry["size"] = len(files.content[entry["did"]])
    area = stack.data / "cavern_data/cavern/home" / user / files.run
    url = f"{stack.url}/src/cavern/files/home/{user}/{files.run}"
    follow(http, api, submit(http, api, body | {"files": body["files"][:1], "lifetime": None})["id"])

    task = follow(http, api, submit(http, api, body)["id"])
    assert [file["state"] for file in results(http, api, task["id"])] == ["PRESENT"] + ["STAGED"] * 3
    lives = datetime.fromisoformat(task["expires"]) - datetime.fromisoformat(task["finished"])
    assert abs(lives.total_seconds() - body["lifetime"]) < 1
    # Of the same size, so that no more than a look at the size would take it for the copy.
    other = bytes(len(files.content[changed]))
    assert http.put(f"{url}/{changed.partition(':')[2]}", data=other, timeout=30).status_code == 201
    assert http.put(f"{url}/own.txt", data=b"mine", timeout=30).status_code == 201
    assert {path.name for path in area.iterdir()} == {did.partition(":")[2] for did in files.content} | {
        "own.txt"
    }
    if end == "released":
        assert http.post(f"{api}/v1/tasks/{task['id']}/release", timeout=30).status_code == 202
    else:
        # As if the hour had passed.
        over = f"UPDATE tasks SET expires = clock_timestamp() WHERE id = '{task['id']}' RETURNING 1"  # noqa: S608 - the id is the service's own
        assert stack.sql("srcnodedb", "prepare_data", over) == "1"
    deadline = time.monotonic() + 120
    while (told := http.get(f"{api}/v1/tasks/{task['id']}", timeout=30).json())["expires"] is not None:
        assert time.monotonic() < deadline, told
        time.sleep(0.3)
    assert {path.name for path in area.iterdir()} == {
        before.partition(":")[2],
        changed.partition(":")[2],
        "own.txt",
    }
    states = {file["did"]: file["state"] for file in results(http, api, task["id"])}
    assert states == {before: "PRESENT", changed: "STAGED", **dict.fromkeys(copies, "RELEASED")}


def test_a_renewed_lifetime_is_counted_from_now(http: requests.Session, api: str, rse: Place) -> None:
    files = Files(rse, 1)
    task = follow(http, api, submit(http, api, files.request(lifetime=600))["id"])
    renewed = http.post(f"{api}/v1/tasks/{task['id']}/renew", json={"lifetime": 7200}, timeout=30).json()
    assert renewed["lifetime"] == 7200
    added = datetime.fromisoformat(renewed["expires"]) - datetime.fromisoformat(task["expires"])
    assert timedelta(seconds=6600) <= added < timedelta(seconds=6660)


BAD_ITEMS = [
    (["no-colon", "a/b", "./x"], "/0/0", "is not scope:name"),
    (["testing:x/../../etc/passwd", "testing/x", "./x"], "/0/0", "segments"),
    (["testing:a b", "testing/x", "./x"], "/0/0", "letters, digits"),
    (["testing:a.txt", "testing/84/1c/other.txt", "./x"], "/0/1", "is not where testing:a.txt lies"),
    (["testing:a.txt", "../../etc/passwd", "./x"], "/0/1", "segments"),
    (["testing:a.txt", "/etc/passwd", "./x"], "/0/1", "relative"),
    (["testing:a.txt", "http://evil.example/x", "./x"], "/0/1", "segments"),
    (["testing:a.txt", "testing/%2e%2e/x", "./x"], "/0/1", "percent-encoded"),
    (["testing:a.txt", "testing/x?y", "./x"], "/0/1", "must not hold"),
    (["testing:a.txt", None, "./x"], "/0/1", "must be a string"),
    (["testing:a.txt", "@", "../other"], "/0/2", "segments"),
    (["testing:a.txt", "@", "/home/other"], "/0/2", "relative"),
    (["testing:a.txt", "@", ""], "/0/2", "relative"),
    (["testing:a.txt", "@", 7], "/0/2", "must be a string"),
]


@pytest.mark.parametrize(("item", "pointer", "message"), BAD_ITEMS)
def test_bad_items_are_refused_by_name(
    http: requests.Session, api: str, item: list[Any], pointer: str, message: str
) -> None:
    entry = [item[0], DID.parse(item[0]).path() if item[1] == "@" else item[1], item[2]]
    answer = http.post(f"{api}/", json=[entry], timeout=30)
    assert answer.status_code == 422, answer.text
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    problem = answer.json()
    assert problem["errors"][0]["pointer"] == pointer
    assert message in problem["errors"][0]["detail"]
    assert http.get(f"{api}/v1/tasks", timeout=30).json()["tasks"] == []


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"not json", 422, "not JSON"),
        (b"{}", 422, "must be a list"),
        (b"[]", 422, "names no file"),
        (b"[[]]", 422, "/0"),
        (b'[["a:b"]]', 422, "/0"),
        (b"[" * 100_000, 422, "not JSON"),
        (b" " * (65 * 2**20), 413, "larger than"),
    ],
)
def test_bad_bodies(http: requests.Session, api: str, body: bytes, status: int, message: str) -> None:
    answer = http.post(f"{api}/", data=body, headers={"Content-Type": "application/json"}, timeout=120)
    assert answer.status_code == status
    assert message in answer.json()["detail"]


def test_tokens_are_verified(stack: Deployment, anonymous: requests.Session, api: str) -> None:
    body = [["testing:a", DID.parse("testing:a").path(), "./x"]]
    secret = stack.secrets["iam_signing_key"]
    now = int(time.time())
    claims = {
        "iss": f"{stack.url}/iam",
        "sub": "x",
        "aud": stack.url,
        "exp": now + 300,
        "preferred_username": "mallory",
    }
    kid = jwt.get_unverified_header(stack.token("ada"))["kid"]

    def sign(key: str = secret, algorithm: str = "RS256", **changed: Any) -> str:
        return jwt.encode({**claims, **changed}, key, algorithm, headers={"kid": kid})

    assert (
        anonymous.get(
            f"{api}/v1/tasks", headers={"Authorization": f"Bearer {sign()}"}, timeout=30
        ).status_code
        == 200
    )
    header, payload, _ = stack.token("ada").split(".")
    bad = [
        sign(exp=now - 3600),
        sign(aud="https://elsewhere.example"),
        sign(iss="https://evil.example/iam"),
        sign(preferred_username="../root"),
        sign("a secret that is long enough for it", "HS256"),
        f"{header}.{payload}.{'A' * 512}",
        "not-a-token",
    ]
    for token in bad:
        answer = anonymous.post(
            f"{api}/", json=body, headers={"Authorization": f"Bearer {token}"}, timeout=30
        )
        assert answer.status_code == 401, answer.text
        assert answer.headers["WWW-Authenticate"].startswith("Bearer error=")
        assert token not in answer.text
    missing = anonymous.post(f"{api}/", json=body, timeout=30)
    assert missing.status_code == 401
    assert "Send a token" in missing.json()["detail"]


@pytest.mark.parametrize("task", [str(uuid.UUID(int=1)), "nonsense", "..%2f..%2fetc"])
def test_unknown_tasks_are_not_found(http: requests.Session, api: str, task: str) -> None:
    answer = http.get(f"{api}/{task}", timeout=30)
    assert answer.status_code == 404
    assert answer.headers["Content-Type"].startswith("application/problem+json")


def test_operation_endpoints(stack: Deployment, anonymous: requests.Session, api: str) -> None:
    assert anonymous.get(f"{api}/health", timeout=30).json() == {"status": "ok"}
    assert anonymous.get(f"{api}/ready", timeout=30).json() == {"ledger": True, "broker": True}
    # How much there is to do is nobody's business outside.
    assert anonymous.get(f"{api}/metrics", timeout=30).status_code in (403, 404)
    core = f"http://{stack.services['core']['address']}:{stack.services['core']['port']}/metrics"
    assert 'prepare_data_tasks{state="SUCCEEDED"}' in requests.get(core, timeout=30).text
    assert "/v1/tasks" in anonymous.get(f"{api}/openapi.json", timeout=30).json()["paths"]
    # The worker's are for the host, and for monitors inside the network.
    worker = f"http://{stack.services['celery_worker']['address']}:9000/metrics"
    told = requests.get(worker, timeout=30)
    assert told.status_code == 200
    assert 'prepare_data_files_total{fault="",state="STAGED"}' in told.text


def test_callbacks_only_to_allowed_hosts(http: requests.Session, api: str, rse: Place) -> None:
    body = Files(rse, 1).request(callback="http://169.254.169.254/latest/meta-data")
    problem = submit(http, api, body, 422)
    assert "not an allowed host" in problem["detail"]
