# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils import _staging
from ansible_collections.skasrc.cavern.plugins.modules import stage, stage_info

pytest.importorskip(
    "prepare_data_client", reason="the modules' client is not installed in ansible-test's environment"
)

ID = "00000000-0000-0000-0000-000000000007"
TASK = f"/prepare-data/v1/tasks/{ID}"
DID = "testing:prepare_data_test.txt"
PATH = "testing/84/1c/prepare_data_test.txt"


def task(state: str, **members: Any) -> dict[str, Any]:
    return {"id": ID, "state": state, "info": None, "files": 2, "files_done": 2, "files_failed": 0, **members}


def file(number: int, state: str, **members: Any) -> dict[str, Any]:
    return {"number": number, "did": f"a:{number}", "path": "p", "target": "/t", "state": state, **members}


@pytest.fixture
def prepare(service: Any) -> Any:
    """`prepare(end, *files)`: the service, in which any task ends so."""

    def answers(end: dict[str, Any], *files: dict[str, Any], status: int = 201) -> Any:
        service.on("POST", "/prepare-data/v1/tasks", service.document(task("QUEUED"), status))
        service.on("GET", TASK, service.document(task("RUNNING")))
        events = f"event: final\ndata: {json.dumps(end)}\n\n"
        service.on("GET", f"{TASK}/events", service.reply(events, Content_Type="text/event-stream"))
        service.on("GET", f"{TASK}/files", service.document({"files": list(files), "next": None}))
        return service

    return answers


def options(service: Any, **more: Any) -> dict[str, Any]:
    return {"url": service.url, "token": "a.b.c", "items": [{"did": DID}], **more}


def test_staged_files_are_a_change(run_module: Any, prepare: Any) -> None:
    service = prepare(task("SUCCEEDED"), file(0, "STAGED"), file(1, "PRESENT"))
    wanted = options(
        service, destination="./x", lifetime=60, items=[{"did": DID, "size": 3, "md5": "A" * 32}]
    )
    result = run_module(stage, **wanted)
    assert result["changed"]
    assert result["counts"] == {"STAGED": 1, "PRESENT": 1}
    assert (result["task_id"], result["state"]) == (ID, "SUCCEEDED")
    (request,) = service.asked("POST", "/prepare-data/v1/tasks")
    assert request.headers["authorization"] == "Bearer a.b.c"
    assert request.json() == {
        "files": [{"did": DID, "path": PATH, "size": 3, "md5": "a" * 32}],
        "destination": "./x",
        "lifetime": 60,
    }


def test_files_in_place_are_none(run_module: Any, prepare: Any) -> None:
    service = prepare(task("SUCCEEDED"), file(0, "PRESENT"), file(1, "PRESENT"))
    assert run_module(stage, **options(service))["changed"] is False


def test_failure_names_the_files(run_module: Any, prepare: Any) -> None:
    failed = [file(n, "FAILED", fault="SourceNotFound", detail="404") for n in range(7)]
    end = task("FAILED", info="7 of 8 files failed", files_failed=7)
    service = prepare(end, *failed, file(7, "STAGED"))
    result = run_module(stage, **options(service))
    assert result["failed"]
    assert result["changed"]
    assert result["msg"].startswith(f"task {ID} FAILED: 7 of 8 files failed: a:0: SourceNotFound: 404; ")
    assert result["msg"].endswith("; and 2 more")
    assert result["counts"] == {"FAILED": 7, "STAGED": 1}


@pytest.mark.parametrize(("status", "changed"), [(201, True), (200, False)])
def test_without_waiting(run_module: Any, prepare: Any, status: int, changed: bool) -> None:
    service = prepare(task("SUCCEEDED"), status=status)
    result = run_module(stage, **options(service, wait=False))
    assert (result["changed"], result["state"]) == (changed, "QUEUED")
    assert "files" not in result
    assert len(service.requests) == 1


def test_time_is_up(run_module: Any, prepare: Any) -> None:
    service = prepare(task("SUCCEEDED"))
    service.on("GET", f"{TASK}/events", service.reply("", Content_Type="text/event-stream"))
    result = run_module(stage, **options(service, timeout=0.2))
    assert result["failed"]
    assert result["task_id"] == ID
    assert "is RUNNING after 0.2 s; it goes on" in result["msg"]


@pytest.mark.parametrize(("present", "changed"), [(0, True), (1, True), (2, False)])
def test_check_mode_asks_for_an_estimate(run_module: Any, service: Any, present: int, changed: bool) -> None:
    estimate = {"files": 2, "bytes": 10, "present": present, "missing": [], "quota_left": 10, "seconds": 1.0}
    service.on("POST", "/prepare-data/v1/estimate", service.document(estimate))
    result = run_module(stage, check=True, **options(service))
    assert (result["changed"], result["estimate"]) == (changed, estimate)
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"missing": ["a:1"]}, "not on the storage element: a:1"),
        ({"quota_left": 9}, "10 bytes are to be staged, but there is room for 9 only"),
    ],
)
def test_check_mode_finds_what_will_fail(
    run_module: Any, service: Any, more: dict[str, Any], message: str
) -> None:
    estimate = {"files": 2, "bytes": 10, "present": 0, "missing": [], "quota_left": None, "seconds": None}
    service.on("POST", "/prepare-data/v1/estimate", service.document({**estimate, **more}))
    result = run_module(stage, check=True, **options(service))
    assert result["failed"]
    assert result["msg"] == message


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"items": []}, "items: at least one file is needed"),
        ({"items": [{"did": "nonsense"}]}, "'nonsense' is not scope:name"),
        ({"items": [{"did": DID, "path": "../x"}]}, f"{DID}: path '../x'"),
        ({"items": [{"did": DID, "md5": "12"}]}, f"{DID}: md5 must be 32 hexadecimal digits"),
        ({"items": [{"did": DID, "sise": 1}]}, "Unsupported parameters"),
        ({"lifetime": 0}, "lifetime: 0 is not a number of seconds greater than 0"),
        ({"timeout": -1}, "timeout: -1 is not a number of seconds"),
        ({"token": "a b"}, "token: a token has neither spaces"),
        ({"token": None}, "one of the following is required: token, token_file"),
        ({"token_file": "/nonexistent"}, "mutually exclusive: token|token_file"),
        ({"token": None, "token_file": "/nonexistent"}, "token_file: /nonexistent: No such file"),
        ({"service_url": "gopher://x"}, "service_url: 'gopher://x' is no http(s) URL"),
        ({"ca_path": "/nonexistent"}, "ca_path: /nonexistent: No such file"),
    ],
)
def test_bad_options(run_module: Any, service: Any, more: dict[str, Any], message: str) -> None:
    given = {name: value for name, value in options(service, **more).items() if value is not None}
    result = run_module(stage, **given)
    assert result["failed"]
    assert message in result["msg"]
    assert not service.requests


def test_refusal_of_the_service(run_module: Any, service: Any) -> None:
    faults = [{"pointer": "/files/0/path", "detail": "is not where it lies"}]
    problem = {"title": "Invalid", "detail": "1 file is wrong", "errors": faults}
    service.on("POST", "/prepare-data/v1/tasks", service.document(problem, 422))
    assert "/files/0/path: is not where it lies" in run_module(stage, **options(service))["msg"]


def test_without_the_client(run_module: Any, service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_staging, "IMPORT_ERROR", "traceback")
    assert "prepare-data-client" in run_module(stage, **options(service))["msg"]


def test_info_of_a_task(run_module: Any, service: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a.b.c\n")
    service.on("GET", TASK, service.document(task("FAILED")))
    service.on("GET", f"{TASK}/files", service.document({"files": [file(1, "FAILED")], "next": None}))
    where = {"url": service.url, "token_file": str(tmp_path / "token"), "task_id": ID}
    found = run_module(stage_info, **where, file_state="FAILED")
    assert found["changed"] is False
    assert found["tasks"] == [task("FAILED")]
    assert found["counts"] == {"FAILED": 1}
    assert service.requests[-1].query["state"] == ["FAILED"]
    assert service.requests[-1].headers["authorization"] == "Bearer a.b.c"
    assert "files" not in run_module(stage_info, **where, files=False)


def test_info_of_no_task(run_module: Any, service: Any) -> None:
    service.on("GET", TASK, service.document({"title": "Not found"}, 404))
    assert run_module(stage_info, url=service.url, token="a.b.c", task_id=ID)["tasks"] == []


def test_info_of_all_tasks(run_module: Any, service: Any) -> None:
    listing = {"tasks": [task("RUNNING"), task("QUEUED")], "next": "more"}
    service.on("GET", "/prepare-data/v1/tasks", service.document(listing))
    found = run_module(stage_info, url=service.url, token="a.b.c", states=["RUNNING", "QUEUED"], limit=2)
    assert [entry["state"] for entry in found["tasks"]] == ["RUNNING", "QUEUED"]
    assert service.requests[0].query == {"state": ["RUNNING", "QUEUED"], "limit": ["2"]}
    assert run_module(stage_info, url=service.url, token="a.b.c", limit=0)["failed"]
