"""The Python client against a stand-in over real HTTP."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from prepare_data_client import (
    Client,
    InvalidTask,
    Item,
    NotFound,
    PrepareDataError,
    Refused,
    Unauthorized,
    Unreachable,
    WaitTimeout,
)

from .conftest import TASK, TOKEN, Service, answer, event, file, hang_up, problem, stream, task

ID = task()["id"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test wait for a pause between two tries."""
    monkeypatch.setattr("prepare_data_client.transport.LONGEST_PAUSE", 0.01)


@pytest.fixture
def client(service: Service) -> Client:
    return Client(service.url + "/", token=TOKEN, timeout=5)


def test_submit_sends_the_request_and_returns_the_task(service: Service, client: Client) -> None:
    service.on("POST", "/v1/tasks", answer(task(), 201))
    submitted = client.submit(
        [Item.of("testing:a", size=3), Item.of("testing:b", path="x/b", destination="./other")],
        destination="./testing",
        lifetime=60,
        idempotency_key="mine",
    )
    (request,) = service.requests
    assert submitted.id == ID
    assert not submitted.final
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["idempotency-key"] == "mine"
    assert request.json == {
        "files": [
            {"did": "testing:a", "path": Item.of("testing:a").path, "size": 3},
            {"did": "testing:b", "path": "x/b", "destination": "./other"},
        ],
        "destination": "./testing",
        "lifetime": 60,
    }


def test_a_request_sent_twice_carries_one_key(service: Service, client: Client) -> None:
    service.on("POST", "/v1/tasks", hang_up, problem(503, "Busy"), answer(task(), 201))
    assert client.submit([Item.of("a:b")]).id == ID
    keys = {request.headers["idempotency-key"] for request in service.asked("POST", "/v1/tasks")}
    assert len(service.requests) == 3
    assert len(keys) == 1


def test_token_may_be_renewed_between_requests(service: Service) -> None:
    service.on("GET", TASK, answer(task()))
    fresh = iter(["first", "second"])
    client = Client(service.url, token=lambda: next(fresh))
    client.task(ID)
    client.task(ID)
    assert [r.headers["authorization"] for r in service.requests] == ["Bearer first", "Bearer second"]


def test_netrc_does_not_replace_the_token(
    service: Service, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login eve password x\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    service.on("GET", TASK, answer(task()))
    client.task(ID)
    assert service.requests[0].headers["authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Refused),
        (401, Unauthorized),
        (403, Unauthorized),
        (404, NotFound),
        (409, Refused),
        (500, Unreachable),
    ],
)
def test_problem_becomes_an_error(
    service: Service, client: Client, status: int, kind: type[PrepareDataError]
) -> None:
    service.on("GET", TASK, problem(status, "Short", "the long reason"))
    with pytest.raises(kind, match=r"Short.*the long reason"):
        client.task(ID)


def test_problem_names_the_items(service: Service, client: Client) -> None:
    faults = [{"pointer": "/files/0/path", "detail": "leaves the root"}]
    service.on("POST", "/v1/tasks", problem(422, "Invalid", "1 file is not valid", errors=faults))
    with pytest.raises(Refused, match="/files/0/path: leaves the root") as refused:
        client.submit([Item.of("a:b")])
    assert refused.value.status == 422
    assert refused.value.faults[0].pointer == "/files/0/path"


def test_redirection_is_not_followed_with_the_token(service: Service, client: Client) -> None:
    service.on("GET", TASK, answer({}, 302, Location="http://elsewhere.example/"))
    with pytest.raises(Refused, match="elsewhere"):
        client.task(ID)


def test_something_else_than_the_service(service: Service, client: Client) -> None:
    service.on("GET", TASK, answer(b"<html>welcome</html>", kind="text/html"))
    with pytest.raises(Unreachable, match="is it prepare-data"):
        client.task(ID)


def test_retry_after_a_lost_answer_is_not_repeated(service: Service, client: Client) -> None:
    service.on("POST", f"{TASK}/retry", hang_up)
    with pytest.raises(Unreachable):
        client.retry(ID)
    assert len(service.requests) == 1


def test_nobody_there() -> None:
    with pytest.raises(Unreachable, match="Connection refused"):
        Client("http://127.0.0.1:9", attempts=2).task(ID)


@pytest.mark.parametrize("url", ["haproxy", "ftp://x/", "https://", "https://x/?y"])
def test_url_is_checked(url: str) -> None:
    with pytest.raises(PrepareDataError, match="no http"):
        Client(url)


def test_ca_file_is_checked(tmp_path: Path) -> None:
    with pytest.raises(PrepareDataError, match="no such file"):
        Client("https://localhost", ca=tmp_path / "none")


def test_task_id_is_checked_before_anything_is_sent(service: Service, client: Client) -> None:
    with pytest.raises(InvalidTask):
        client.task("../tasks")
    assert not service.requests


def test_pages_are_joined(service: Service, client: Client) -> None:
    service.on(
        "GET",
        f"{TASK}/files",
        answer({"files": [file(0), file(1)], "next": 1}),
        answer({"files": [file(2)], "next": None}),
    )
    assert [found.number for found in client.files(ID, state="STAGED")] == [0, 1, 2]
    assert service.requests[1].query == {"state": ["STAGED"], "after": ["1"], "limit": ["1000"]}


def test_limit_stops_asking(service: Service, client: Client) -> None:
    service.on("GET", "/v1/tasks", answer({"tasks": [task(), task()], "next": "more"}))
    assert len(list(client.tasks(states=["RUNNING", "QUEUED"], limit=2))) == 2
    (request,) = service.requests
    assert request.query == {"state": ["RUNNING", "QUEUED"], "limit": ["2"]}


def test_wait_follows_events(service: Service, client: Client) -> None:
    running, done = task("RUNNING", files_done=1), task("SUCCEEDED")
    service.on("GET", TASK, answer(task()))
    pieces = event("progress", running) + event("final", done)
    service.on("GET", f"{TASK}/events", stream(b": keep-alive\n\n", pieces[:20], pieces[20:]))
    seen: list[str] = []
    assert client.wait(ID, on_progress=lambda found: seen.append(found.state)).succeeded
    assert seen == ["QUEUED", "RUNNING", "SUCCEEDED"]


def test_wait_survives_a_service_that_restarts(service: Service, client: Client) -> None:
    service.on(
        "GET",
        TASK,
        answer(task()),
        problem(503, "Starting"),
        answer(task("RUNNING")),
        answer(task("FAILED", files_failed=1)),
    )
    service.on("GET", f"{TASK}/events", stream(event("progress", task("RUNNING")), complete=False))
    seen = [found.state for found in client.follow(ID, interval=0.01)]
    assert seen == ["QUEUED", "RUNNING", "FAILED"]


def test_wait_without_events_asks(service: Service, client: Client) -> None:
    service.on("GET", TASK, answer(task()), answer(task("SUCCEEDED")))
    service.on("GET", f"{TASK}/events", problem(503, "No events"))
    assert [found.state for found in client.follow(ID, interval=0.01)] == ["QUEUED", "SUCCEEDED"]


def test_wait_gives_up_when_time_is_up(service: Service, client: Client) -> None:
    service.on("GET", TASK, answer(task("RUNNING")))
    service.on("GET", f"{TASK}/events", stream(event("progress", task("RUNNING"))))
    began = time.monotonic()
    with pytest.raises(WaitTimeout, match=r"is RUNNING after 0\.3 s"):
        client.wait(ID, timeout=0.3)
    assert time.monotonic() - began >= 0.3


def test_wait_gives_up_on_a_dead_service(service: Service, client: Client) -> None:
    service.on("GET", TASK, answer(task("RUNNING")), hang_up)
    service.on("GET", f"{TASK}/events", hang_up)
    with pytest.raises(Unreachable):
        list(client.follow(ID, patience=0.2, interval=0.01))


def test_task_that_vanishes_is_not_found(service: Service, client: Client) -> None:
    service.on("GET", TASK, answer(task("RUNNING")), problem(404, "Not found"))
    service.on("GET", f"{TASK}/events", problem(404, "Not found"))
    with pytest.raises(NotFound):
        list(client.follow(ID, interval=0.01))


def test_estimate(service: Service, client: Client) -> None:
    document = {"files": 2, "bytes": 100, "missing": ["a:c"], "quota_left": 99, "seconds": 1.5}
    service.on("POST", "/v1/estimate", answer(document))
    found = client.estimate([Item.of("a:b"), Item.of("a:c")])
    assert found.missing == ("a:c",)
    assert found.fits is False


def test_a_service_on_this_machine_is_never_asked_through_a_proxy(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    service.on("GET", f"/v1/tasks/{ID}", answer(task()))
    assert Client(service.url, token=TOKEN).task(ID).id == ID
    assert Client("https://prepare.example/", token=TOKEN)._transport._session.trust_env
    assert not Client("https://prepare.example/", token=TOKEN, use_proxy=False)._transport._session.trust_env
