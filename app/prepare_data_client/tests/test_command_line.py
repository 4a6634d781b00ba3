"""The command line: what it prints where, and its exit statuses."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from prepare_data_client.__main__ import main

from .conftest import TASK, TOKEN, Service, answer, event, file, hang_up, problem, stream, task

ID = task()["id"]
DID = "testing:prepare_data_test.txt"
Run = Callable[..., int]


@pytest.fixture
def run(service: Service, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr("prepare_data_client.transport.LONGEST_PAUSE", 0.01)
    monkeypatch.setenv("PREPARE_DATA_TOKEN", TOKEN)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    return lambda *arguments: main(["--url", service.url, *arguments])


def test_submit_prints_the_id_alone(service: Service, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    service.on("POST", "/v1/tasks", answer(task(), 201))
    assert run("submit", DID, "--to", "./testing", "--lifetime", "2h", "--key", "k") == 0
    assert capsys.readouterr().out == f"{ID}\n"
    (request,) = service.requests
    assert request.json["files"] == [{"did": DID, "path": "testing/84/1c/prepare_data_test.txt"}]
    assert request.json["destination"] == "./testing"
    assert request.json["lifetime"] == 7200


@pytest.mark.parametrize(
    ("state", "status"), [("SUCCEEDED", 0), ("FAILED", 1), ("LOST", 1), ("CANCELLED", 8)]
)
def test_waiting_ends_as_the_task_does(
    service: Service, run: Run, capsys: pytest.CaptureFixture[str], state: str, status: int
) -> None:
    failed = int(state == "FAILED")
    service.on("POST", "/v1/tasks", answer(task(), 201))
    service.on("GET", TASK, answer(task("RUNNING")))
    service.on("GET", f"{TASK}/events", stream(event("final", task(state, files_failed=failed))))
    reason = {"fault": "SourceNotFound", "detail": "404 from the RSE"}
    service.on("GET", f"{TASK}/files", answer({"files": [file(1, "FAILED", **reason)], "next": None}))
    assert run("submit", DID, "--wait") == status
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{ID} {state}")
    assert ("testing:1: SourceNotFound: 404 from the RSE" in printed.err) == bool(failed)


def test_json_is_the_service_document(service: Service, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    long = task(info="x" * 500 + " [bold]not markup[/bold] :warning:")
    service.on("GET", TASK, answer(long))
    service.on("GET", f"{TASK}/files", answer({"files": [file(0)], "next": None}))
    assert run("--json", "status", ID) == 0
    assert json.loads(capsys.readouterr().out) == long
    assert run("status", ID, "--json", "--files", "--state", "STAGED") == 0
    assert json.loads(capsys.readouterr().out) == {**long, "items": [file(0)]}


def test_status_and_list_for_people(service: Service, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    service.on("GET", TASK, answer(task("FAILED", files_failed=1, info="1 of 2 files failed")))
    failed = file(1, "FAILED", fault="QuotaExceeded", detail="no room")
    service.on("GET", f"{TASK}/files", answer({"files": [failed], "next": None}))
    service.on("GET", "/v1/tasks", answer({"tasks": [task("RUNNING")], "next": None}))
    assert run("status", "--files", ID) == 0
    shown = capsys.readouterr().out
    assert "1 of 2 files failed" in shown
    assert "QuotaExceeded: no room" in shown
    assert run("list", "--state", "RUNNING", "--limit", "5") == 0
    assert ID in capsys.readouterr().out
    assert service.requests[-1].query == {"state": ["RUNNING"], "limit": ["5"]}


def test_actions(service: Service, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    service.on("POST", f"{TASK}/cancel", answer(task("RUNNING", cancel=True), 202))
    service.on("POST", f"{TASK}/retry", answer(task(), 202))
    service.on("POST", f"{TASK}/release", answer(task("SUCCEEDED"), 202))
    service.on("POST", f"{TASK}/renew", answer(task("SUCCEEDED", expires="2026-12-01T00:00:00Z")))
    assert run("cancel", ID) == 0
    assert "RUNNING (stopping)" in capsys.readouterr().out
    assert run("retry", ID) == run("release", ID) == run("renew", ID, "7d") == 0
    assert service.requests[-1].json == {"lifetime": 604800}
    assert "kept until 2026-1" in capsys.readouterr().out


def test_cancel_and_wait_is_done_when_it_is_cancelled(service: Service, run: Run) -> None:
    service.on("POST", f"{TASK}/cancel", answer(task("RUNNING", cancel=True), 202))
    service.on("GET", TASK, answer(task("CANCELLED")))
    assert run("cancel", ID, "--wait") == 0


@pytest.mark.parametrize(
    ("missing", "left", "status"), [([], 200, 0), (["a:b"], 200, 1), ([], 50, 1), ([], None, 0)]
)
def test_estimate(
    service: Service,
    run: Run,
    capsys: pytest.CaptureFixture[str],
    missing: list[str],
    left: int | None,
    status: int,
) -> None:
    document = {"files": 1, "bytes": 100, "missing": missing, "quota_left": left, "seconds": 90.2}
    service.on("POST", "/v1/estimate", answer(document))
    assert run("estimate", DID) == status
    assert "about 1m30s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("submit",), 2, "no files to stage"),
        (("submit", "nonsense"), 2, "'nonsense' is not scope:name"),
        (("submit", "a:b", "a:c", "--path", "x"), 2, "--path is for a single DID"),
        (("submit", "a:b", "--path", "../x"), 2, "a:b: path '../x'"),
        (("submit", "--from", "/nonexistent"), 2, "/nonexistent: No such file"),
        (("status", "nonsense"), 2, "no task id"),
        (("--token-file", "/nonexistent", "status", ID), 4, "/nonexistent: No such file"),
        (("--ca", "/nonexistent", "status", ID), 2, "no such file of CA certificates"),
        (("--url", "gopher://x", "list"), 2, "no http(s) URL"),
    ],
)
def test_wrong_arguments(
    service: Service,
    run: Run,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    status: int,
    message: str,
) -> None:
    assert run(*arguments) == status
    assert message in capsys.readouterr().err
    assert not service.requests


@pytest.mark.parametrize("arguments", [("renew", ID, "soon"), ("list", "--limit", "0"), ("dance",), ()])
def test_usage_ends_with_2(run: Run, arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("http_status", "status"), [(400, 3), (409, 3), (401, 4), (403, 4), (404, 5), (500, 6), (503, 6)]
)
def test_refusals(
    service: Service, run: Run, capsys: pytest.CaptureFixture[str], http_status: int, status: int
) -> None:
    service.on("GET", TASK, problem(http_status, "No", "because"))
    assert run("status", ID) == status
    assert "because" in capsys.readouterr().err


def test_no_answer_and_no_token(service: Service, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    service.on("GET", TASK, hang_up)
    assert run("status", ID) == 6
    monkeypatch.delenv("PREPARE_DATA_TOKEN")
    assert run("status", ID) == 4


def test_time_is_up(service: Service, run: Run) -> None:
    service.on("GET", TASK, answer(task("RUNNING")))
    service.on("GET", f"{TASK}/events", stream(event("progress", task("RUNNING"))))
    assert run("watch", ID, "--timeout", "1") == 7


def test_token_never_shows(service: Service, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    service.on("GET", TASK, problem(401, "Unauthorized", "the token has expired"))
    run("status", ID)
    printed = capsys.readouterr()
    assert TOKEN not in printed.out + printed.err


def _metadata(service: Service, issuer: str) -> None:
    document = {
        "issuer": issuer,
        "token_endpoint": f"{service.url}/iam/token",
        "device_authorization_endpoint": f"{service.url}/iam/device",
    }
    service.on("GET", "/iam/.well-known/openid-configuration", answer(document))


def test_token_by_password(
    service: Service,
    run: Run,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    issuer = f"{service.url}/iam/"
    _metadata(service, issuer)
    service.on("POST", "/iam/token", answer({"access_token": "new", "expires_in": 60}))
    (tmp_path / "password").write_text("hush\n")
    monkeypatch.setenv("PREPARE_DATA_CLIENT_SECRET", "s:cret")
    assert (
        run(
            *("token", "--issuer", issuer, "--user", "ada", "--lifetime", "1m"),
            *("--password-file", str(tmp_path / "password")),
        )
        == 0
    )
    assert capsys.readouterr().out == "new\n"
    request = service.requests[-1]
    assert request.body == b"grant_type=password&username=ada&password=hush&expires_in=60"
    assert request.headers["authorization"] == "Basic " + base64.b64encode(b"cavern-cli:s:cret").decode()


def test_token_refused_and_wrong_issuer(
    service: Service, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREPARE_DATA_PASSWORD", "wrong")
    _metadata(service, f"{service.url}/iam")
    refusal = {"error": "invalid_grant", "error_description": "wrong password"}
    service.on("POST", "/iam/token", answer(refusal, 400))
    arguments = ("token", "--user", "ada", "--issuer", f"{service.url}/iam")
    assert run(*arguments) == 3
    assert "invalid_grant (400): wrong password" in capsys.readouterr().err
    assert run(*arguments[:-1], f"{service.url}/iam/") == 4


def test_token_by_device(service: Service, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    _metadata(service, f"{service.url}/iam")
    begun = {
        "device_code": "d",
        "user_code": "ABCD",
        "verification_uri": "https://iam/",
        "expires_in": 60,
        "interval": 0,
    }
    service.on("POST", "/iam/device", answer(begun))
    service.on(
        "POST", "/iam/token", answer({"error": "authorization_pending"}, 400), answer({"access_token": "new"})
    )
    assert run("token", "--device", "--issuer", f"{service.url}/iam", "--client-id", "public") == 0
    printed = capsys.readouterr()
    assert printed.out == "new\n"
    assert "enter the code ABCD" in printed.err
    assert b"client_id=public" in service.requests[-1].body


def test_token_shows_its_claims(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    payload = base64.urlsafe_b64encode(json.dumps({"sub": "1", "exp": 0}).encode()).decode().rstrip("=")
    assert run("--token", f"x.{payload}.y", "--json", "token", "--inspect") == 0
    assert json.loads(capsys.readouterr().out) == {"sub": "1", "exp": 0}
    assert run("--token", "opaque", "token", "--inspect") == 4
